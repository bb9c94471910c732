#!/usr/bin/env python3
"""Writes the jobs of the GPU checks, as ham-trainer reads them.

  specs.py HAMCTL FOLDER     FOLDER gets NAME.json; those in FOLDER/rehearsal are the same in small, for a CPU
"""
import json
import pathlib
import subprocess
import sys

ATTACK = {"epsilon": 0.031, "step_size": 0.007, "steps": 10}
HAM = {"name": "ham", "mining_step": 3, "mining_start_epoch": 1, "retained_easy_share": 0}
PGD_AT = {"name": "pgd-at"}
SGD = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.0002, "schedule": "constant"}
PGD_20 = {"name": "pgd-20", "attacks": [{"loss": "cross_entropy", "steps": 20, "step_size": 0.00775}]}


def step_job(model, method, batch, precision):
    """For timing steps, with a learning rate that leaves as many rows hard as there are."""
    return {"data": {"name": "cifar-10", "test_rows": 16, "validation_share": 0}, "model": {"name": model},
            "method": method, "attack": ATTACK, "optimizer": SGD | {"learning_rate": 0.01}, "epochs": 1,
            "batch_size": batch, "ema_decay": 0, "precision": precision, "evaluation": {"every_epochs": 0,
                                                                                      "suites": [PGD_20]}}


def epochs_job(method, learning_rate):
    """Three epochs, each followed by PGD-20 on 2,000 validation images, at the end on all test images."""
    return {"data": {"name": "cifar-10", "test_rows": 0, "validation_share": 0.04},
            "model": {"name": "preact-resnet-18"}, "method": method, "attack": ATTACK,
            "optimizer": SGD | {"learning_rate": learning_rate}, "epochs": 3, "batch_size": 128, "ema_decay": 0,
            "precision": "bf16", "evaluation": {"every_epochs": 1, "suites": [PGD_20], "final_suites": []}}


def evaluation_job(precision):
    """One step that leaves the weights alone, as not all its rows are hard, and the evaluation of all test images."""
    return step_job("preact-resnet-18", HAM | {"minimum_hard": 128}, 128, precision) | {
        "data": {"name": "cifar-10", "train_rows": 128, "test_rows": 0, "validation_share": 0},
        "evaluation": {"every_epochs": 0, "suites": [PGD_20], "final_suites": []}}


def service_job(epochs, rows, mining_start_epoch):
    """For the whole service, with checkpoints often."""
    return step_job("preact-resnet-18", HAM | {"mining_start_epoch": mining_start_epoch}, 128, "bf16") | {
        "data": {"name": "cifar-10", "train_rows": rows, "test_rows": 512, "validation_share": 0}, "epochs": epochs,
        "checkpoint": {"every_iterations": 100}}


def jobs():
    out = {"epochs-pgd-at": epochs_job(PGD_AT, 0.1), "epochs-ham": epochs_job(HAM, 0.01),
           "service-short": service_job(2, 12_800, 2), "service-long": service_job(10_000, 0, 1)}
    for batch in (128, 512, 1024):
        for precision in ("fp32", "bf16"):
            out[f"ham-{batch}-{precision}"] = step_job("preact-resnet-18", HAM, batch, precision)
    for precision in ("fp32", "bf16"):
        out[f"pgd-at-128-{precision}"] = step_job("preact-resnet-18", PGD_AT, 128, precision)
        out[f"evaluation-{precision}"] = evaluation_job(precision)
    out["wrn-pgd-at-128-bf16"] = step_job("wrn-34-10", PGD_AT, 128, "bf16")
    return {name: job | {"resources": {"device": "cuda", "threads_per_rank": 8}} for name, job in out.items()}


def small(job):
    attack = ATTACK | {"steps": 2}
    method = job["method"] | ({"mining_step": 1} if job["method"]["name"] == "ham" else {})
    if "minimum_hard" in method:
        method["minimum_hard"] = 16
    suite = {"name": "quick", "attacks": [{"steps": 1, "step_size": 0.01}]}
    data = job["data"] | {"test_rows": 32, "validation_share": 0.2}
    data |= {"train_rows": min(128, data.get("train_rows", 0))}
    return job | {"data": data, "model": {"name": "cnn-16-32"}, "method": method, "attack": attack, "batch_size": 16,
                  "precision": "fp32", "resources": {"device": "cpu"},
                  "evaluation": {"every_epochs": job["evaluation"]["every_epochs"], "suites": [suite],
                                 "final_suites": []}}


def main(hamctl, folder):
    for name, job in jobs().items():
        for path, train in ((folder / f"{name}.json", job), (folder / "rehearsal" / f"{name}.json", small(job))):
            path.parent.mkdir(parents=True, exist_ok=True)
            done = subprocess.run([hamctl, "submit", "--dry-run", "-", "-o", "json"], input=json.dumps({"train": train}),
                                  text=True, capture_output=True)
            if done.returncode != 0:
                sys.exit(f"{name}: {done.stderr}")
            path.write_text(done.stdout)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
