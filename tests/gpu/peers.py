#!/usr/bin/env python3
"""A training program in PyTorch for Python, which does steps when told: what ham-trainer-cuda is measured against.

  peers.py PROGRAM [options]

Reads one line, a number of steps, does them, and answers with one JSON object: seconds, rows, hard_rows, syncs (times
that the host waited for the GPU in the last step, as PyTorch counts them; null on a CPU), peak_bytes (of GPU memory
that was taken).

PROGRAM:
  published  the paper's code: PyTorch's defaults, noise drawn on the host, the gradient of all parameters in each attack
             step, two forwards before the attack and one after each of its steps; pgd-at compares prediction and label
             row by row
  grouped    the same without comparing row by row
  tuned      bfloat16, channels_last, gradients of the images alone, one forward to mine, the attack as CUDA graphs for
             a few numbers of rows, fused optimiser
  compiled   tuned, with the attacked network through torch.compile

--masks replays recorded masks instead of mining, so that as many rows are hard as for another program. Images are
CIFAR-10's, cropped and flipped; they lie on the device, which is more than the paper's code has.
"""
import argparse
import json
import pathlib
import sys
import time
import warnings

import torch
from torch.nn import functional as F

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "interop"), str(ROOT / "deploy")]
from export_pytorch import read_safetensors  # noqa: E402
from pytorch_peer import MODELS  # noqa: E402

GRAPH_SIZES = 8  # of the hard rows: eighths of the batch


class Images:
    """CIFAR-10's training images on the device, as batches with a crop and a flip."""

    def __init__(self, root, device, limit):
        raw = bytearray().join(path.read_bytes() for path in sorted(pathlib.Path(root).glob("data_batch_*.bin")))
        rows = torch.frombuffer(raw, dtype=torch.uint8).reshape(-1, 3073)[:limit].to(device)
        self.labels, images = rows[:, 0].long(), rows[:, 1:].reshape(-1, 3, 32, 32)
        self.padded = F.pad(images, (4, 4, 4, 4))
        self.position = 0

    def next(self, rows):
        begin = self.position % (len(self.labels) - rows + 1)
        self.position = begin + rows
        chosen = self.padded[begin:begin + rows]
        device = chosen.device
        top, left = (torch.randint(0, 9, (rows, 1, 1, 1), device=device) for _ in range(2))
        down, right = torch.arange(32, device=device).view(1, 1, 32, 1), torch.arange(32, device=device).view(1, 1, 1, 32)
        columns = torch.where(torch.rand(rows, 1, 1, 1, device=device) < 0.5, right, 31 - right)
        row = torch.arange(rows, device=device).view(rows, 1, 1, 1)
        channel = torch.arange(3, device=device).view(1, 3, 1, 1)
        return chosen[row, channel, top + down, left + columns].float() / 255, self.labels[begin:begin + rows]


class Masks:
    """Recorded ones, in turn."""

    def __init__(self, path, device):
        masks = json.loads(pathlib.Path(path).read_text()) if path else []
        self.rows = [torch.tensor([row for row, hard in enumerate(mask) if hard == "1"], device=device).long()
                     for mask in masks]
        self.position = 0

    def next(self):
        """Numbers of the hard rows; None where nothing was recorded."""
        if not self.rows:
            return None
        self.position += 1
        return self.rows[(self.position - 1) % len(self.rows)]


class Program:
    def __init__(self, options, model, images):
        self.options, self.model, self.images = options, model, images
        self.masks = Masks(options.masks, options.device)
        self.optimizer = self.make_optimizer()

    def make_optimizer(self):
        return torch.optim.SGD(self.model.parameters(), lr=self.options.learning_rate, momentum=0.9, weight_decay=2e-4)

    def ascend(self, clean, x, gradient):
        x = x + self.options.step_size * gradient.sign()
        return torch.min(torch.max(x, clean - self.options.epsilon), clean + self.options.epsilon).clamp(0, 1)


class Published(Program):
    compares_rows = True

    def attack_step(self, clean, x, y):
        x = x.detach().requires_grad_()
        self.model.zero_grad()
        F.cross_entropy(self.model(x), y).backward()
        return self.ascend(clean, x.detach(), x.grad)

    def start(self, x):
        epsilon = self.options.epsilon
        noise = torch.empty(x.shape, dtype=torch.float64).uniform_(-epsilon, epsilon).float().to(x.device)
        return (x.detach() + noise).clamp(0, 1)

    def train(self, x_adv, y):
        self.model.train()
        self.optimizer.zero_grad()
        F.cross_entropy(self.model(x_adv), y).backward()
        self.optimizer.step()

    def step(self):
        options = self.options
        x, y = self.images.next(options.batch)
        self.model.eval()
        x_adv = self.start(x)
        self.model(x), self.model(x_adv)
        for step in range(1, options.steps + 1):
            x_adv = self.attack_step(x, x_adv, y)
            logits = self.model(x_adv)
            if options.method == "ham" and step == options.mining_step:
                hard = self.masks.next()
                if hard is None:
                    hard = logits.argmax(1) != y
                x, y, x_adv = x[hard], y[hard], x_adv[hard]
            elif options.method == "pgd-at" and self.compares_rows:
                prediction = logits.argmax(1)
                sum(bool(prediction[row] == y[row]) for row in range(len(y)))
        self.train(x_adv, y)
        return len(y)


class Grouped(Published):
    compares_rows = False


class Tuned(Program):
    compiles = False

    def __init__(self, options, model, images):
        model = model.to(memory_format=torch.channels_last)
        super().__init__(options, model, images)
        self.attacked = torch.compile(model, dynamic=False) if self.compiles else model
        self.graphs = {}

    def make_optimizer(self):
        fused = self.options.device == "cuda"
        return torch.optim.SGD(self.model.parameters(), lr=self.options.learning_rate, momentum=0.9, weight_decay=2e-4,
                               fused=fused)

    def autocast(self):
        return torch.autocast(self.options.device, torch.bfloat16)

    def attack(self, clean, x, y, steps):
        """In evaluation mode, no gradient of a parameter."""
        for _ in range(steps):
            x = x.detach().requires_grad_()
            with self.autocast():
                logits = self.attacked(x)
            gradient, = torch.autograd.grad(F.cross_entropy(logits.float(), y, reduction="sum"), x)
            x = self.ascend(clean, x.detach(), gradient)
        return x

    def predict(self, x):
        with torch.no_grad(), self.autocast():
            return self.attacked(x).argmax(1)

    def recorded(self, rows, steps, mines):
        """attack() and, if it mines, predict() on so many rows: recorded once, then launched whole."""
        if (rows, steps) not in self.graphs:
            like = self.images.next(rows)
            clean = like[0].contiguous(memory_format=torch.channels_last)
            inputs = (clean, clean.clone(), like[1].clone())

            def work():
                x = self.attack(*inputs, steps)
                return x, self.predict(x) if mines else None

            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    work()
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                outputs = work()
            self.graphs[rows, steps] = graph, inputs, outputs
        return self.graphs[rows, steps]

    def run(self, clean, x, y, steps, mines=False):
        """The attack's result and the predictions; with a GPU by a graph of at least so many rows."""
        rows = len(y)
        if rows == 0:
            return x, y
        if self.options.device != "cuda":
            x = self.attack(clean, x, y, steps)
            return x, self.predict(x) if mines else None
        unit = max(1, self.options.batch // GRAPH_SIZES)
        graph, inputs, outputs = self.recorded(-(-rows // unit) * unit, steps, mines)
        for target, source in zip(inputs, (clean, x, y)):
            target[:rows].copy_(source)
        graph.replay()
        return outputs[0][:rows], outputs[1][:rows] if mines else None

    def step(self):
        options = self.options
        x, y = self.images.next(options.batch)
        x = x.contiguous(memory_format=torch.channels_last)
        x_adv = (x + torch.empty_like(x).uniform_(-options.epsilon, options.epsilon)).clamp(0, 1)
        self.model.eval().requires_grad_(False)
        mining = options.method == "ham"
        x_adv, prediction = self.run(x, x_adv, y, options.mining_step if mining else options.steps, mining)
        if mining:
            hard = self.masks.next()
            if hard is None:
                hard = (prediction != y).nonzero().squeeze(1)
            x, x_adv, y = x[hard], x_adv[hard], y[hard]
            x_adv, _ = self.run(x, x_adv, y, options.steps - options.mining_step)
        self.model.train().requires_grad_(True)
        self.optimizer.zero_grad()
        with self.autocast():
            logits = self.model(x_adv)
        F.cross_entropy(logits.float(), y).backward()
        self.optimizer.step()
        return len(y)


class Compiled(Tuned):
    compiles = True

    def __init__(self, options, model, images):
        torch._dynamo.config.recompile_limit = 64  # one for each number of rows
        super().__init__(options, model, images)


PROGRAMS = {"published": Published, "grouped": Grouped, "tuned": Tuned, "compiled": Compiled}


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


def syncs_of_a_step(program):
    if program.options.device != "cuda":
        return None
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        program.step()
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in seen)


def timed(program, steps):
    device = program.options.device
    synchronize(device)
    begin = time.perf_counter()
    hard = sum(program.step() for _ in range(steps))
    synchronize(device)
    seconds = time.perf_counter() - begin
    return {"seconds": seconds, "rows": steps * program.options.batch, "hard_rows": hard,
            "syncs": syncs_of_a_step(program),
            "peak_bytes": torch.cuda.max_memory_reserved() if device == "cuda" else None}


def load(model, path):
    """Weights that ham-trainer exported."""
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    model.load_state_dict(read_safetensors(path)[0] | counters, strict=True)


def parsed(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=PROGRAMS)
    parser.add_argument("--data", required=True, help="folder with CIFAR-10's data_batch_*.bin")
    parser.add_argument("--model", default="preact-resnet-18", choices=[name for name in MODELS if " " not in name])
    parser.add_argument("--width", type=int, default=0, help="0: as published")
    parser.add_argument("--weights", help="safetensors file of ham-trainer export")
    parser.add_argument("--masks", help="JSON list of strings of 0 and 1")
    parser.add_argument("--method", default="ham", choices=["ham", "pgd-at"])
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--mining-step", type=int, default=3)
    parser.add_argument("--epsilon", type=float, default=0.031)
    parser.add_argument("--step-size", type=float, default=0.007)
    parser.add_argument("--learning-rate", type=float, default=0.01)
    parser.add_argument("--rows", type=int, default=50000, help="of the training images")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    return parser.parse_args(arguments)


def main(arguments):
    options = parsed(arguments)
    torch.manual_seed(1)
    if options.device == "cpu":
        torch.set_num_threads(1)
    maker, published_width, *_ = MODELS[options.model]
    model = maker(options.width or published_width)
    if options.weights:
        load(model, options.weights)
    images = Images(options.data, options.device, options.rows)
    program = PROGRAMS[options.program](options, model.to(options.device), images)
    for line in sys.stdin:
        print(json.dumps(timed(program, int(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
