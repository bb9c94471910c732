#!/usr/bin/env python3
"""Prints the quickstart's table from the logs of its jobs: one line a method, mean and range over seeds."""
import argparse
import collections
import json
import statistics
import subprocess

METHODS = {"pgd-at": "PGD-AT", "ham": "HAM q=0", "ham-q30": "HAM q=0.3"}


def job_result(hamctl, name):
    """Figures of one finished job, from its log."""
    lines = subprocess.run([hamctl, "watch", name, "-o", "json"], capture_output=True, text=True, check=True).stdout
    metrics = [r["metric"] for r in map(json.loads, lines.splitlines()) if "metric" in r]
    final = [m["evaluation"] for m in metrics if m.get("evaluation", {}).get("final")][-1]
    summary = [m["summary"] for m in metrics if "summary" in m][-1]
    if final["split"] != "test":
        raise SystemExit(f"{name} was evaluated at its end on {final['split']} images, not on test images")
    figures = {
        "images": final["rows"],
        "clean": 100 * final["clean_accuracy"],
        "clean worst": 100 * min(final["per_class_clean_accuracy"]),
        "seconds": summary["attack_seconds"] + summary["train_seconds"],
        "hard share": 100 * summary["hard_share"],
    }
    for suite in final["suites"]:
        figures[suite["name"]] = 100 * suite["robust_accuracy"]
        figures[suite["name"] + " worst"] = 100 * suite["worst_class_robust_accuracy"]
        figures[suite["name"] + " worst class"] = suite["worst_class_name"]
    return figures


def cell(values):
    mean = statistics.mean(values)
    if len(values) == 1:
        return f"{mean:.1f}"
    return f"{mean:.1f} ({min(values):.1f}-{max(values):.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hamctl", required=True)
    parser.add_argument("--jobs", required=True)
    parser.add_argument("--json", help="also write all figures to this file")
    arguments = parser.parse_args()
    with open(arguments.jobs, encoding="utf-8") as file:
        jobs = json.load(file)
    results = collections.defaultdict(dict)
    for job in jobs["jobs"] if isinstance(jobs, dict) else jobs:
        label = job.get("labels", {}).get("quickstart")
        if label:
            method, seed = label.rsplit("-", 1)
            results[method][int(seed)] = job_result(arguments.hamctl, job["name"])
    columns = ["pgd-20", "pgd-20 worst", "strong", "strong worst", "clean", "clean worst", "hard share", "seconds"]
    heads = ["PGD-20 avg", "PGD-20 worst", "strong avg", "strong worst", "clean avg", "clean worst", "hard share",
             "train s"]
    seeds = sorted(next(iter(results.values())))
    images = {f"{f['images']:,}" for s in results.values() for f in s.values()}
    print(f"Per cent; {' or '.join(sorted(images))} test images; seed {', '.join(map(str, seeds))}"
          + ("; mean (lowest-highest)" if len(seeds) > 1 else ""))
    print("| method | " + " | ".join(heads) + " |")
    print("| --- |" + " --- |" * len(heads))
    for method in METHODS:
        if method in results:
            cells = [cell([f[c] for f in results[method].values()]) for c in columns]
            print(f"| {METHODS[method]} | " + " | ".join(cells) + " |")
    worst = {m: sorted({f["strong worst class"] for f in s.values()}) for m, s in results.items()}
    print("Worst class under the strong attack: "
          + "; ".join(f"{METHODS[m]}: {', '.join(worst[m])}" for m in METHODS if m in worst))
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(results, file, indent=1, sort_keys=True)
            file.write("\n")


if __name__ == "__main__":
    main()
