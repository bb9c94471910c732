#!/usr/bin/env python3
"""One HAM step, attack to gradients, of the engine and of two PyTorch programs, one CPU thread each, in turn.

  ham_step_peers.py ENGINE_PEER MODEL ROWS ROUNDS [bf16]     one JSON object: seconds of each, rows and hard rows

`published` does what the paper's code does (two forwards before the attack, gradients of all
parameters in each attack step, a second forward after it); `tuned` only what is needed: gradients of the images alone,
one forward to mine, channels_last. All have the same weights, images and start, so the same rows are hard; with bf16,
in which the engine and tuned compute then, but for a few.
"""
import json
import pathlib
import subprocess
import sys
import tempfile
import time

import torch
from torch.nn import functional as F

TESTS = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TESTS / "interop"), str(TESTS.parent / "deploy")]
from pytorch_peer import (  # noqa: E402
    MINING_STEP, STEPS, ascend, input_gradient, metadata_of, problem, with_prefix)
from export_pytorch import write_safetensors  # noqa: E402


def train(model, x_adv, y):
    model.train()
    model.zero_grad()
    F.cross_entropy(model(x_adv), y).backward()


def published(model, x, y, start, epsilon):
    model.eval()
    model(x), model(start)
    x_adv = start
    for step in range(1, STEPS + 1):
        x_adv = x_adv.detach().requires_grad_()
        model.zero_grad()
        F.cross_entropy(model(x_adv), y).backward()
        x_adv = ascend(x, x_adv.detach(), x_adv.grad, epsilon)
        logits = model(x_adv)
        if step == MINING_STEP:
            hard = logits.argmax(1) != y
            x, y, x_adv = x[hard], y[hard], x_adv[hard]
    train(model, x_adv, y)
    return len(y)


def channels_last(images):
    """Also of images with one channel, which the usual call leaves as they are."""
    return images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def tuned(model, x, y, start, epsilon, bf16):
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return tuned_step(model, x, y, start, epsilon)


def tuned_step(model, x, y, start, epsilon):
    model.eval()
    x_adv = start
    for step in range(1, STEPS + 1):
        x_adv = ascend(x, x_adv, input_gradient(model, x_adv, y), epsilon)
        if step == MINING_STEP:
            with torch.no_grad():
                hard = model(x_adv).argmax(1) != y
            x, y, x_adv = x[hard], y[hard], x_adv[hard]
    train(model, x_adv, y)
    return len(y)


def start_of(x, epsilon):
    generator = torch.Generator().manual_seed(2)
    return (x + (2 * torch.rand(x.shape, generator=generator) - 1) * epsilon).clamp(0, 1)


def usual_epsilon(model, x, y):
    """The largest of some at which at most half of the rows are hard, as in training."""
    for epsilon in (e / 255 for e in (8, 6, 4, 3, 2, 1.5, 1, 0.75, 0.5, 0.25)):
        x_adv = start_of(x, epsilon)
        for _ in range(MINING_STEP):
            x_adv = ascend(x, x_adv, input_gradient(model, x_adv, y), epsilon)
        with torch.no_grad():
            if (model(x_adv).argmax(1) != y).float().mean() <= 0.5:
                return epsilon
    sys.exit("more than half of the rows are hard at any epsilon")


def seconds_of(step, model, *arguments):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    begin = time.perf_counter()
    hard = step(model, *arguments)
    seconds = time.perf_counter() - begin
    model.load_state_dict(before)  # training moved the running statistics
    return seconds, hard


def main(peer, name, rows, rounds, bf16):
    torch.set_num_threads(1)
    model, x, y, _ = problem(name, 0, rows)
    model, x = model.float(), x.float()
    epsilon = usual_epsilon(model, x, y)
    start = start_of(x, epsilon)
    seconds = {"engine": [], "published": [], "tuned": []}
    hard_rows = set()
    with tempfile.TemporaryDirectory() as folder:
        write_safetensors(f"{folder}/in", with_prefix("weights.", model.state_dict()) | {"x": x, "y": y, "start": start},
              metadata_of(name, 0) | {"epsilon": repr(epsilon), "step_size": repr(epsilon / 4)} | ({"compute": "bf16"} if bf16 else {}))
        with subprocess.Popen([peer, "time", f"{folder}/in"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              text=True) as engine:
            for round in range(rounds + 1):  # the first one warms up
                taken = {}
                engine.stdin.write("step\n")
                engine.stdin.flush()
                engine_seconds, engine_hard = engine.stdout.readline().split()
                taken["engine"] = float(engine_seconds), int(engine_hard)
                plain = model.to(memory_format=torch.contiguous_format)
                taken["published"] = seconds_of(published, plain, x, y, start, epsilon)
                last = model.to(memory_format=torch.channels_last)
                taken["tuned"] = seconds_of(tuned, last, channels_last(x), y, channels_last(start), epsilon,
                                             bf16)
                hard_rows |= {hard for _, hard in taken.values()}
                if round > 0:
                    for program, (value, _) in taken.items():
                        seconds[program].append(value)
            engine.stdin.close()
    if max(hard_rows) - min(hard_rows) > (rows // 20 if bf16 else 0):
        sys.exit(f"the programs found {sorted(hard_rows)} hard rows: they did not do the same work")
    print(json.dumps({"model": name, "rows": rows, "hard_rows": max(hard_rows), **seconds}))


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6) or sys.argv[5:] not in ([], ["bf16"]):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), bf16=len(sys.argv) == 6)
