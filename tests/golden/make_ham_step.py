#!/usr/bin/env python3
"""Writes ham_step.safetensors: one HAM step by PyTorch, for ham_step_test.cc to compare with.

Run with any Python that has torch 2.x; CPU, float32, one thread. The seed is the first one for which the
outcome does not hang on rounding: no input gradient is so near to 0 that its sign could differ, and no two
largest logits are close. Those are checked here, in float64.

Tensors: conv1.weight ... fc2.bias; x, y, start; x_1 (after one step), x_mined (after MINING_STEP), hard (0 / 1),
x_adv (hard rows only), logits (of x_adv), loss (mean over hard rows), gradient.NAME of that loss;
x_margin (3 steps up the margin loss, all rows).
"""
import pathlib
import sys

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "deploy"))
from export_pytorch import write_safetensors  # noqa: E402

ROWS, SIZE, CLASSES = 40, 12, 10
EPSILON, STEP_SIZE, STEPS, MINING_STEP, MARGIN_STEPS = 0.1, 0.03, 5, 2, 3


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 8, 3, padding=1)
        self.fc1 = nn.Linear(8 * (SIZE // 4) ** 2, 16)
        self.fc2 = nn.Linear(16, CLASSES)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Doubtful(Exception):
    pass


def margin(logits, y):
    others = logits.clone()
    others[torch.arange(len(y)), y] = -torch.inf
    return (others.max(1).values - logits[torch.arange(len(y)), y]).sum()


def cross_entropy(logits, y):
    return F.cross_entropy(logits, y, reduction="sum")


def gradient(model, x, y, loss):
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(loss(model(x), y), x)[0]


def ascend(model, clean, x, y, steps, loss=cross_entropy):
    for _ in range(steps):
        g = gradient(model, x, y, loss)
        exact = gradient(model.double(), x.double(), y, loss)
        model.float()
        largest = exact.abs().amax(dim=(1, 2, 3), keepdim=True)
        if ((exact.abs() < 1e-5 * largest) & (exact != 0)).any() or (g.sign() != exact.sign()).any():
            raise Doubtful
        x = x + STEP_SIZE * g.sign()
        x = torch.min(torch.max(x, clean - EPSILON), clean + EPSILON).clamp(0, 1)
    return x


def make(seed):
    torch.manual_seed(seed)
    model = Cnn()
    for parameter in model.parameters():  # larger than usual, so that the attack has something to break
        parameter.data *= 2
    x = torch.rand(ROWS, 1, SIZE, SIZE)
    y = model(x).argmax(1)
    y[::5] = (y[::5] + 1) % CLASSES
    start = (x + torch.empty_like(x).uniform_(-EPSILON, EPSILON)).clamp(0, 1)
    out = {name: p.data for name, p in model.state_dict().items()}
    out |= {"x": x, "y": y, "start": start}
    out["x_1"] = ascend(model, x, start, y, 1)
    out["x_mined"] = ascend(model, x, start, y, MINING_STEP)
    logits = model(out["x_mined"]).detach()
    top = logits.topk(2, dim=1).values
    hard = logits.argmax(1) != y
    if (top[:, 0] - top[:, 1] < 1e-4).any() or not 10 <= hard.sum() <= 30:
        raise Doubtful
    out["hard"] = hard.long()
    out["x_adv"] = ascend(model, x[hard], out["x_mined"][hard], y[hard], STEPS - MINING_STEP)
    out["x_margin"] = ascend(model, x, start, y, MARGIN_STEPS, margin)
    model.zero_grad()
    logits = model(out["x_adv"])
    loss = F.cross_entropy(logits, y[hard])
    loss.backward()
    out["logits"] = logits.detach()
    out["loss"] = loss.detach()
    out |= {"gradient." + name: p.grad for name, p in model.named_parameters()}
    return out


def main():
    torch.set_num_threads(1)
    for seed in range(100000):
        try:
            tensors = make(seed)
        except Doubtful:
            continue
        write_safetensors(sys.argv[1], tensors, {"seed": str(seed), "torch": torch.__version__})
        print(f"seed {seed}, {int(tensors['hard'].sum())} of {ROWS} rows hard")
        return
    sys.exit("no seed will do")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: make_ham_step.py OUT.safetensors")
    main()
