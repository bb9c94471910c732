#!/usr/bin/env python3
"""The peer of `ham-trainer bench`: PGD adversarial training of the 207 k CNN as a plain PyTorch loop.

Nothing slow on purpose: only the input gradient is asked for during the attack. Data are random, as their
content does not change the work. Prints one JSON object.
"""
import argparse
import json
import time

import torch
from torch import nn
from torch.nn import functional as F

EPSILON, STEP_SIZE = 0.1, 0.03


def make_model():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10))


def attack(model, x, y, steps):
    x_adv = (x + torch.empty_like(x).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
    for _ in range(steps):
        x_adv = x_adv.detach().requires_grad_(True)
        loss = F.cross_entropy(model(x_adv), y, reduction="sum")
        gradient = torch.autograd.grad(loss, x_adv)[0]
        x_adv = x_adv.detach() + STEP_SIZE * gradient.sign()
        x_adv = torch.min(torch.max(x_adv, x - EPSILON), x + EPSILON).clamp(0, 1)
    return x_adv.detach()


def step(model, optimizer, x, y, steps):
    model.eval()
    x_adv = attack(model, x, y, steps)
    model.train()
    optimizer.zero_grad()
    F.cross_entropy(model(x_adv), y).backward()
    optimizer.step()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    batches = [(torch.rand(options.batch, 1, 28, 28), torch.randint(0, 10, (options.batch,))) for _ in range(8)]
    for i in range(5):
        step(model, optimizer, *batches[i % 8], options.steps)
    begin = time.perf_counter()
    for i in range(options.iterations):
        step(model, optimizer, *batches[i % 8], options.steps)
    seconds = time.perf_counter() - begin
    print(json.dumps({"images_per_second": options.iterations * options.batch / seconds, "seconds": seconds,
                      "iterations": options.iterations, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
