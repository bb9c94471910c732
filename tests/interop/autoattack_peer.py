#!/usr/bin/env python3
"""The reference implementation of AutoAttack (pyautoattack) on PyTorch's models, for comparison with the engine.

  autoattack_peer.py prepare WEIGHTS.pth IMAGES.gz LABELS.gz ROWS IN.safetensors [KEY=VALUE...]
      cnn-wong-kolter's weights and the first ROWS images and labels of two IDX files in one file; the settings, such as
      norm=linf epsilon=0.1, go into its metadata
  autoattack_peer.py untrained MODEL WIDTH ROWS IN.safetensors
      such a file of random images and weights, labels as the network says
  autoattack_peer.py attacks IN.safetensors [KEY=VALUE...]
      AutoAttack standard, as JSON: robust {clean and each attack: a 0 or 1 a row, which are left after it and those
      before}, seconds {attack}, distance (largest). Settings: norm=linf|l2, epsilon, seed, batch, attacks=A,B...,
      iterations (of APGD and FAB), queries (of Square)
  autoattack_peer.py trace IN.safetensors OUT.safetensors [KEY=VALUE...]
      one run of an attack on all rows, as it was: what is in IN and
        apgd-ce, apgd-dlr, apgd-t  points [K+1, N, C, H, W]; begin [K, N], from which of them each step went; step_sizes
                                   [K, N]; losses [K+1, N]
        fab-t                      begins [K, N, C, H, W] of each iteration and points where it came to; best
        apgd-t, fab-t              targets [N]
      Settings: norm, epsilon, seed, attack, iterations, target (2: the likeliest wrong class), dtype=float32|float64
  autoattack_peer.py compare ENGINE_PEER IN.safetensors [KEY=VALUE...]
      such runs beside the engine's, as JSON: whole ones in float64, and in float32 each step from the reference's points
  autoattack_peer.py record OUT.safetensors
      float64 runs for interop_test.cc

IN holds "weights.NAME", x, y and in its metadata model, width and settings, which those of the command line replace.
Needs torch, numpy and pyautoattack. CPU, one thread.
"""
import contextlib
import gzip
import json
import logging
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy
import pyautoattack.autoattack
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
import torch
from torch.nn import functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "deploy"))
from export_pytorch import load_state_dict, read_safetensors, write_safetensors  # noqa: E402
from pytorch_peer import MODELS, at_a_kink, make, problem, with_prefix, without_prefix  # noqa: E402

NORMS = {"linf": "Linf", "l2": "L2"}
SAMPLES = 20, 16  # every so many points, and of these every so many pixels


def read_idx(path):
    raw = gzip.decompress(pathlib.Path(path).read_bytes())
    shape = [int.from_bytes(raw[4 + 4 * i:8 + 4 * i], "big") for i in range(raw[3])]
    return torch.from_numpy(numpy.frombuffer(raw, numpy.uint8, offset=4 + 4 * raw[3]).reshape(shape).copy())


def prepare(weights, images, labels, rows, path, settings):
    x = read_idx(images)[:rows].unsqueeze(1).float() / 255
    y = read_idx(labels)[:rows].long()
    write_safetensors(path, with_prefix("weights.", load_state_dict(weights)) | {"x": x, "y": y},
                      {"model": "cnn-wong-kolter", "width": "0"} | settings)


def model_of(tensors, metadata):
    maker, published, *_ = MODELS[metadata["model"]]
    model = maker(int(metadata["width"]) or published).to(tensors["x"].dtype)
    model.load_state_dict(without_prefix("weights.", tensors))
    return model.eval().requires_grad_(False)


class Outcomes(pyautoattack.autoattack.EvaluationState):
    """Keeps what the reference's own state forgets: which rows each attack left, and when."""
    after = {}

    def add_run_attack(self, attack):
        super().add_run_attack(attack)
        self.after[attack] = self.robust_flags.clone(), time.perf_counter()


def attacks(tensors, settings):
    x, y, model = tensors["x"], tensors["y"], model_of(tensors, settings)
    reference = pyautoattack.autoattack.AutoAttack(
        model, norm=NORMS[settings["norm"]], eps=float(settings["epsilon"]), seed=int(settings["seed"]))
    if "attacks" in settings:
        reference.attacks_to_run = settings["attacks"].split(",")
    reference.square.n_queries = int(settings["queries"])
    for attack in (reference.apgd, reference.apgd_targeted):  # sets more than n_iter from it
        attack.__init__(model, n_iter=int(settings["iterations"]), norm=attack.norm, eps=attack.eps, seed=attack.seed,
                        device="cpu", logger=reference.logger)
    reference.fab.n_iter = int(settings["iterations"])
    Outcomes.after = {}
    pyautoattack.autoattack.EvaluationState = Outcomes
    before = time.perf_counter()
    x_adv, _ = reference.run_standard_evaluation(x, y, batch_size=int(settings["batch"]))
    with torch.no_grad():
        clean = torch.cat([model(part).argmax(1) for part in x.split(250)]) == y
    moved = (x_adv - x).flatten(1)
    out = {"robust": {"clean": bits(clean)}, "seconds": {},
           "distance": float((moved.abs().amax(1) if settings["norm"] == "linf" else moved.norm(dim=1)).max())}
    for attack, (robust, moment) in Outcomes.after.items():
        out["robust"][attack] = bits(robust)
        out["seconds"][attack] = moment - before
        before = moment
    return out


def untrained(name, width, rows, path):
    model, shape = make(name, width)
    model.float()
    x = torch.rand(rows, *shape)
    with torch.no_grad():
        y = torch.cat([model(part).argmax(1) for part in x.split(250)])
    tensors = with_prefix("weights.", model.state_dict()) | {"x": x, "y": y}
    write_safetensors(path, tensors, {"model": name, "width": str(width)})


def bits(flags):
    return "".join(str(int(flag)) for flag in flags)


@contextlib.contextmanager
def computing_in(dtype):
    """The reference makes its numbers of the default type and its images .float(); both are `dtype` in here."""
    before, single = torch.get_default_dtype(), torch.Tensor.float
    torch.set_default_dtype(dtype)
    torch.Tensor.float = lambda tensor: tensor.to(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.Tensor.float = single


class Watched:
    """A network that keeps what it is given, and of the attack that asks it the local variables named."""

    def __init__(self, model, *names):
        self.model, self.names, self.seen, self.logits, self.locals = model, names, [], [], []

    def __call__(self, x):
        asking = sys._getframe(1).f_locals
        self.locals.append({name: asking[name].clone() for name in self.names if name in asking})
        self.seen.append(x.detach().clone())
        logits = self.model(x)
        self.logits.append(logits.detach())
        return logits


def trace_apgd(model, x, y, targets, start, settings):
    watched = Watched(model, "step_size", "x_adv_old")
    kind = {"n_iter": int(settings["iterations"]), "norm": NORMS[settings["norm"]], "eps": float(settings["epsilon"])}
    if targets is None:
        attack = APGDAttack(watched, loss=settings["attack"].removeprefix("apgd-"), **kind)
    else:
        attack = APGDAttack_targeted(watched, **kind)
        attack.y_target = targets
    attack.init_hyperparam(x)
    torch.manual_seed(int(settings["seed"]))
    attack.attack_single_run(x, y, x_init=start)
    points = torch.stack(watched.seen)
    steps = watched.locals[1:]

    def index_of(point, row, last):
        return next(k for k in range(last, -1, -1) if torch.equal(points[k, row], point))

    begin = [[index_of(step["x_adv_old"][row], row, k) for row in range(len(x))] for k, step in enumerate(steps)]
    return {"points": points, "begin": torch.tensor(begin), "losses": torch.stack([loss_of(settings, z, y, targets) for z in watched.logits]),
            "step_sizes": torch.stack([step["step_size"].flatten() for step in steps])}


def trace_fab(model, x, y, settings):
    watched = Watched(model)
    attack = FABAttack_PT(watched, n_iter=int(settings["iterations"]), norm=NORMS[settings["norm"]],
                          eps=float(settings["epsilon"]), targeted=True)
    attack.target_class = int(settings["target"])
    best = attack.attack_single_run(x, y, is_targeted=True)
    # Asked about the images twice, then in each iteration where it begins and where it comes to.
    begins, points = watched.seen[2::2], watched.seen[3::2]
    return {"begins": torch.stack(begins), "points": torch.stack(points), "best": best}


def trace(tensors, settings):
    dtype = getattr(torch, settings["dtype"])
    given = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
    model = model_of(given, settings)
    right = model(given["x"]).argmax(1) == given["y"]
    x, y = given["x"][right], given["y"][right]
    targets = model(x).sort(dim=1)[1][:, -int(settings["target"])] if settings["attack"].endswith("-t") else None
    with computing_in(dtype):
        traced = (trace_fab(model, x, y, settings) if settings["attack"] == "fab-t" else
                  trace_apgd(model, x, y, targets, given.get("start"), settings))
    return given | {"x": x, "y": y} | ({} if targets is None else {"targets": targets}) | traced


def record(path):
    """What is given in float32, which holds it exactly, and behind "expected.NORM.ATTACK." float64 runs from it: losses
    and SAMPLES of the points."""
    model, x, y, _ = problem("cnn-wong-kolter", 2, rows=4)
    y = model(x).argmax(1)
    noise = 2 * torch.rand_like(x) - 1
    epsilons = {"linf": 0.01, "l2": 0.15}
    starts = {"linf": x + 0.9 * epsilons["linf"] * noise,
              "l2": x + 0.9 * epsilons["l2"] * noise / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)}
    given = with_prefix("weights.", model.state_dict()) | {"x": x}
    given = {key: value.float() for key, value in given.items()}
    metadata = {"model": "cnn-wong-kolter", "width": "2", "iterations": "100"}
    out = {}
    for norm, epsilon in epsilons.items():
        start = given[f"start.{norm}"] = starts[norm].clamp(0, 1).float()
        metadata[f"epsilon.{norm}"] = str(epsilon)
        for attack in ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t"):
            settings = DEFAULTS | metadata | {"attack": attack, "norm": norm, "epsilon": str(epsilon), "dtype": "float64"}
            traced = trace({key: value.double() for key, value in given.items()} | {"y": y, "start": start.double()}, settings)
            name = f"expected.{norm}.{attack}"
            out[f"{name}.points"] = traced["points"][::SAMPLES[0]].flatten(2)[..., ::SAMPLES[1]]
            if attack == "fab-t":
                continue
            out[f"{name}.losses"] = traced["losses"]
            if any(is_flat(settings, model(x), y, traced.get("targets")).any() for x in traced["points"]):
                sys.exit(f"{norm} {attack}: a flat loss, whose gradient is rounding")
            print(norm, attack, "rows that end wrong:", int((model(traced["points"][-1]).argmax(1) != y).sum()))
    write_safetensors(path, given | {"y": y, "targets": traced["targets"]} | out, metadata)


def follow(engine, traced, settings):
    """The engine's answer to a run of the reference."""
    with tempfile.TemporaryDirectory() as folder:
        write_safetensors(f"{folder}/in", traced, settings)
        command = "fab" if settings["attack"] == "fab-t" else "apgd"
        subprocess.run([engine, command, f"{folder}/in", f"{folder}/out"], check=True)
        return read_safetensors(f"{folder}/out")[0]


def loss_of(settings, logits, y, targets):
    attack = APGDAttack_targeted(None, eps=1)
    attack.y_target = targets
    return {"apgd-ce": lambda: F.cross_entropy(logits, y, reduction="none"), "apgd-dlr": lambda: attack.dlr_loss(logits, y),
            "apgd-t": lambda: attack.dlr_loss_targeted(logits, y)}[settings["attack"]]()


def slopes(settings, logits, y, targets):
    """How much of what the loss's gradient at the logits is a sum of is left of it: that much larger is its rounding."""
    logits = logits.detach().requires_grad_()
    slope = torch.autograd.grad(loss_of(settings, logits, y, targets).sum(), logits)[0].abs().amax(1)
    ordered = logits.detach().sort(dim=1)[0]
    return slope if settings["attack"] == "apgd-ce" else slope * (ordered[:, -1] - ordered[:, -3])


def is_flat(*arguments):
    """Rows whose loss does not hang on the logits but for what float32 cannot tell: DLR is 1 where the label is third."""
    return slopes(*arguments) < 1e-6


def allowed(*arguments):
    """How far pixels that are the same may be apart, for each row. Signs have no rounding; in L2 the length of a gradient
    passes its own on."""
    if arguments[0]["norm"] == "linf":
        return 1e-6
    return 1e-5 * (1e-2 / slopes(*arguments)).clamp_min(1).view(-1, 1, 1, 1)


def near_a_tie(logits):
    """Rows whose order of logits, on which the gradient of DLR hangs, float32 cannot tell."""
    ordered = logits.detach().sort(dim=1)[0]
    return ((ordered[:, 1:] - ordered[:, :-1]).amin(1) / logits.detach().abs().amax(1)) < 1e-6


def compare_steps(engine, tensors, settings):
    """float32: where the engine goes from the reference's points. What a gradient is, float64 says."""
    traced = trace(tensors, settings | {"dtype": "float32"})
    next_points = follow(engine, traced, settings)["next"]
    exact = model_of({name: value.double() for name, value in traced.items()}, settings)
    targets = traced.get("targets")
    counts = {"first": 0, "differ": 0, "in_doubtful_rows": 0, "below": 0, "doubtful_rows": 0}
    for k, begin in enumerate(traced["begin"]):
        x = traced["points"][begin, torch.arange(len(begin))].double().requires_grad_()
        logits = exact(x)
        gradient = torch.autograd.grad(loss_of(settings, logits, traced["y"], targets).sum(), x)[0].abs()
        clear = gradient > 1e-5 * gradient.amax(dim=(1, 2, 3), keepdim=True)
        apart = (next_points[k] - traced["points"][k + 1]).abs() > allowed(settings, logits, traced["y"], targets)
        doubtful = (at_a_kink(exact, x.detach()) | near_a_tie(logits) |
                    is_flat(settings, logits, traced["y"], targets))
        sure = ~doubtful.view(-1, 1, 1, 1)
        counts["differ"] += int((apart & clear & sure).sum())
        counts["in_doubtful_rows"] += int((apart & clear & ~sure).sum())
        counts["below"] += int((apart & ~clear).sum())
        counts["doubtful_rows"] += int(doubtful.sum())
        if k == 0:
            counts["first"] = counts["differ"]
    return counts


def compare_runs(engine, tensors, settings):
    """float64: whole runs. The largest difference of a pixel in the iterates of rows that come to no flat place."""
    traced = trace(tensors, settings | {"dtype": "float64"})
    run = follow(engine, traced, settings)["run"]
    apart = (run - traced["points"]).abs().amax(dim=(0, 2, 3, 4))
    if settings["attack"] == "fab-t":
        return {"largest": float(apart.max()), "rows": len(apart), "flat_rows": 0}
    model, targets = model_of(traced, settings), traced.get("targets")
    flat = torch.stack([is_flat(settings, model(x), traced["y"], targets) for x in traced["points"]]).any(0)
    return {"largest": float(apart[~flat].max()), "rows": len(apart), "flat_rows": int(flat.sum())}


def compare(engine, tensors, settings):
    return {"attack": settings["attack"], "norm": settings["norm"], "iterations": int(settings["iterations"]),
            "float64": compare_runs(engine, tensors, settings),
            "float32": None if settings["attack"] == "fab-t" else compare_steps(engine, tensors, settings)}


def main(arguments):
    torch.set_num_threads(1)
    logging.getLogger("auto-attack").setLevel(logging.INFO)
    plain = [argument for argument in arguments if "=" not in argument]
    settings = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    if plain[:1] == ["prepare"] and len(plain) == 6:
        prepare(plain[1], plain[2], plain[3], int(plain[4]), plain[5], settings)
        return 0
    if plain[:1] == ["record"] and len(plain) == 2:
        record(plain[1])
        return 0
    if plain[:1] == ["compare"] and len(plain) == 3:
        tensors, metadata = read_safetensors(plain[2])
        print(json.dumps(compare(plain[1], tensors, DEFAULTS | metadata | settings)))
        return 0
    if plain[:1] == ["untrained"] and len(plain) == 5:
        untrained(plain[1], int(plain[2]), int(plain[3]), plain[4])
        return 0
    if plain[:1] == ["attacks"] and len(plain) == 2:
        tensors, metadata = read_safetensors(plain[1])
        print(json.dumps(attacks(tensors, DEFAULTS | metadata | settings)))
        return 0
    if plain[:1] == ["trace"] and len(plain) == 3:
        tensors, metadata = read_safetensors(plain[1])
        settings = DEFAULTS | metadata | settings
        write_safetensors(plain[2], trace(tensors, settings), settings)
        return 0
    sys.exit(__doc__)


DEFAULTS = {"seed": "0", "batch": "250", "iterations": "100", "target": "2", "dtype": "float32",
            "queries": "5000"}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
