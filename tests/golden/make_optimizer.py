#!/usr/bin/env python3
"""Writes optimizer.safetensors: five updates by PyTorch's optimisers, for optimizer_test.cc to compare with.

Run with any Python that has torch 2.x. Tensors, float64: w (start; the elements of WEIGHT, BIAS and NORM one after the
other), gradients [5, elements], rates [5]; CASE [5, elements], the parameters after each update, for each of CASES.
"""
import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "deploy"))
from export_pytorch import write_safetensors  # noqa: E402

WEIGHT, BIAS, NORM = 6, 2, 2  # elements; kinds of parameters
UPDATES = 5
# name: (optimiser, its options, weight decay on all parameters or on WEIGHT only, largest norm or 0)
CASES = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.01}, True, 0),
    "sgd_no_momentum": (torch.optim.SGD, {"momentum": 0.0, "weight_decay": 0.01}, True, 0),
    "sgd_nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}, True, 0),
    "sgd_all": (torch.optim.SGD, {"momentum": 0.8, "nesterov": True, "weight_decay": 0.05}, False, 1.5),
    "adam": (torch.optim.Adam, {"weight_decay": 0.01}, True, 0),
    "adam_all": (torch.optim.Adam, {"weight_decay": 0.05}, False, 1.5),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.3}, True, 0),
    "adamw_all": (torch.optim.AdamW, {"weight_decay": 0.3}, False, 1.5),
}


def run(start, gradients, rates, make, options, decays_all, clip):
    parts = [torch.nn.Parameter(part.clone()) for part in start.split([WEIGHT, BIAS, NORM])]
    groups = [{"params": parts[:1]}, {"params": parts[1:]}]
    if not decays_all:
        groups[1]["weight_decay"] = 0
    optimizer = make(groups, lr=1.0, **options)
    after = []
    for gradient, rate in zip(gradients, rates):
        for part, g in zip(parts, gradient.split([WEIGHT, BIAS, NORM])):
            part.grad = g.clone()
        if clip:
            torch.nn.utils.clip_grad_norm_(parts, clip)
        for group in optimizer.param_groups:
            group["lr"] = rate.item()
        optimizer.step()
        after.append(torch.cat([part.detach() for part in parts]))
    return torch.stack(after)


def main():
    torch.manual_seed(1)
    elements = WEIGHT + BIAS + NORM
    start = torch.randn(elements, dtype=torch.float64)
    gradients = torch.randn(UPDATES, elements, dtype=torch.float64)
    gradients[1] *= 0.1  # not clipped
    gradients[3, 0] = 0
    rates = torch.tensor([0.1, 0.1, 0.05, 0.01, 0.2], dtype=torch.float64)
    tensors = {"w": start, "gradients": gradients, "rates": rates}
    tensors |= {name: run(start, gradients, rates, *case) for name, case in CASES.items()}
    write_safetensors(sys.argv[1], tensors, {"torch": torch.__version__})


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_optimizer.py OUT.safetensors")
    main()
