"""Topic evaluation: the engine's attacks beside pyautoattack, a fork of the authors' AutoAttack (tests/interop)."""
import functools
import hashlib
import json
import os
import pathlib
import re
import statistics
import tempfile

import pool_figures
from base_figures import PEER_PACKAGES, PEER_PACKAGES_ALONE, peer_python, run
from figure import Figure, Skip

FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")
# data: weights, trained for epsilon 0.1 in linf.
ROBUST = {"mnist": "mnist.pth", "fashion-mnist": "fashion_mnist.pth"}
EPSILONS = {"linf": 0.1, "l2": 0.5}
STANDARD = {"attacks": "apgd-ce,apgd-t,fab-t,square", "iterations": 100, "queries": 5000, "batch": 250, "seed": 0,
            "shard": "0/1", "norm": "linf", "epsilon": EPSILONS["linf"]}
SEEDS = 0, 1, 2
SPEED_ROUNDS = 3


def script(root):
    return [peer_python(), "-B", root / "tests" / "interop" / "autoattack_peer.py"]


def engine_peer(root):
    return root / "build" / "tests" / "engine_peer"


def text_of(settings):
    return [f"{key}={value}" for key, value in settings.items()]


def cache(root):
    folder = root / "build" / "attack-figures"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.lru_cache
def robust_rows(root, data, rows):
    """A file of published robust weights with the first test images."""
    folder = pathlib.Path(os.environ.get("HAM_TEST_DATA", "/nowhere"))
    weights = folder / "robust-weights" / ROBUST[data]
    images = folder / "mnist-test" if data == "mnist" else FASHION_MNIST
    for path in (weights, images):
        if not path.exists():
            raise Skip(f"{path} is absent; HAM_TEST_DATA names a folder with robust-weights and mnist-test")
    out = cache(root) / f"{data}-{rows}.safetensors"
    run([*script(root), "prepare", weights, images / "t10k-images-idx3-ubyte.gz", images / "t10k-labels-idx1-ubyte.gz",
         rows, out])
    return out


def engine(root, path, **settings):
    return json.loads(run([engine_peer(root), "attacks", path, *text_of(STANDARD | settings)]))


def reference(root, path, **settings):
    return json.loads(run([*script(root), "attacks", path, *text_of(STANDARD | settings)]))


def cached_reference(root, path, **settings):
    """The outcome, which takes minutes, and whether it was kept from an earlier run."""
    key = hashlib.sha256(path.read_bytes())
    key.update(repr((sorted((STANDARD | settings).items()), PEER_PACKAGES, PEER_PACKAGES_ALONE)).encode())
    kept = cache(root) / f"{key.hexdigest()}.json"
    was_kept = kept.exists()
    if not was_kept:
        outcome = reference(root, path, **settings)
        new = kept.with_suffix(".new")
        new.write_text(json.dumps(outcome))
        new.replace(kept)
    return json.loads(kept.read_text()), was_kept


# Iterates.


@functools.lru_cache
def compared(root):
    out = []
    for data in ROBUST:
        for norm, epsilon in EPSILONS.items():
            for attack in ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t"):
                settings = {"attack": attack, "norm": norm, "epsilon": epsilon}
                out.append(json.loads(run([*script(root), "compare", engine_peer(root), robust_rows(root, data, 32),
                                           *text_of(settings)])))
    return out


def steps(root, what):
    found = [line["float32"] for line in compared(root) if line["float32"]]

    def total(name):
        return sum(line[name] for line in found)

    return total(what), (
        f"APGD-CE, -DLR and -T, linf and l2, 100 steps each of the rows right of 32 MNIST and 32 Fashion-MNIST images, from "
        f"the reference's points and step sizes; not counted are {total('in_doubtful_rows')} pixels of "
        f"{total('doubtful_rows')} rows at a ReLU's kink, a tie of logits or where DLR is flat, and {total('below')} of "
        "smaller gradients")


def runs(root):
    return max(line["float64"]["largest"] for line in compared(root)), "; ".join(
        f"{line['attack']} {line['norm']} {line['float64']['largest']:.1e} of {line['float64']['rows']} rows"
        + (f" but {line['float64']['flat_rows']} on a flat DLR" if line["float64"]["flat_rows"] else "")
        for line in compared(root)) + "; APGD from the reference's start, FAB-T from the images"


# Outcomes.


def per_cent(outcome, attack):
    flags = outcome["robust"][attack]
    return 100 * flags.count("1") / len(flags)


def accuracy(root, data, rows, **settings):
    path = robust_rows(root, data, rows)
    references, kept = zip(*(cached_reference(root, path, seed=seed, **settings) for seed in SEEDS))
    ours = engine(root, path, **settings)
    beyond, told = [], []
    for attack in ours["robust"]:
        theirs = [per_cent(outcome, attack) for outcome in references]
        own = per_cent(ours, attack)
        beyond.append(max(0, min(theirs) - own, own - max(theirs)))
        told.append(f"{attack} {own:.2f}, reference {min(theirs):.2f} to {max(theirs):.2f}")
    norm, epsilon = settings.get("norm", "linf"), settings.get("epsilon", EPSILONS["linf"])
    return max(beyond), (f"robust accuracy after each attack, {rows} images, {norm} {epsilon}: {'; '.join(told)}; seeds "
                         f"{SEEDS}, {sum(kept)} of {len(kept)} reference runs kept from before")


def fab_rows(root):
    """It draws nothing, so each row should end as in the reference."""
    settings = {"attacks": "fab-t"}
    differ, told = 0, []
    for data in ROBUST:
        path = robust_rows(root, data, 500)
        theirs, kept = cached_reference(root, path, **settings)
        ours = engine(root, path, **settings)
        found = sum(a != b for a, b in zip(ours["robust"]["fab-t"], theirs["robust"]["fab-t"]))
        differ += found
        told.append(f"{data} {found}, {per_cent(ours, 'clean') - per_cent(ours, 'fab-t'):.1f} points broken"
                    + (", reference kept from before" if kept else ""))
    return differ, f"FAB-T alone on 500 images each: {'; '.join(told)}"


def invariance(root):
    path = robust_rows(root, "fashion-mnist", 500)
    settings = {"iterations": 20, "queries": 300}
    expected = engine(root, path, **settings)["robust"]
    differ = 0
    for batch in (64, 250):
        for shards in (1, 2, 4):
            parts = [engine(root, path, batch=batch, shard=f"{i}/{shards}", **settings)["robust"] for i in range(shards)]
            for attack, flags in expected.items():
                merged = [parts[row % shards][attack][row // shards] for row in range(len(flags))]
                differ += sum(a != b for a, b in zip(merged, flags))
    return differ, ("rows and attacks, of 500 Fashion-MNIST images, 1, 2 and 4 shards with batches of 64 and 250 against one "
                    "of 250; AutoAttack standard with 20 iterations and 300 queries")


# Speed.


@functools.lru_cache
def pairs(root, network, compute):
    if compute and not re.search(r"\b(avx512_bf16|amx_bf16)\b", pathlib.Path("/proc/cpuinfo").read_text()):
        raise Skip("this CPU has no bfloat16: neither avx512_bf16 nor amx_bf16")
    with tempfile.TemporaryDirectory() as folder:
        if network == "cnn-wong-kolter":
            path, settings = robust_rows(root, "fashion-mnist", 250), {}
            what = "250 Fashion-MNIST images, published robust weights"
        else:
            path = pathlib.Path(folder) / "rows.safetensors"
            run([*script(root), "untrained", "preact-resnet-18", 16, 32, path])
            settings = {"epsilon": 8 / 255}
            what = "32 random images, untrained weights, labels as it says, epsilon 8/255, at which all survive"
        settings |= {"iterations": 10, "queries": 500}
        extra = {"compute": "bf16"} if compute else {}
        out = [(engine(root, path, seed=seed, **settings, **extra), reference(root, path, seed=seed, **settings))
               for seed in range(SPEED_ROUNDS)]
    return out, what


def speed(root, network, compute):
    found, what = pairs(root, network, compute)

    def seconds(outcome):
        return sum(outcome["seconds"].values())

    ratios = [seconds(theirs) / seconds(ours) for ours, theirs in found]
    attacks = "; ".join(
        f"{attack} {statistics.median(theirs['seconds'][attack] / ours['seconds'][attack] for ours, theirs in found):.2f}"
        for attack in found[0][0]["seconds"])
    ours, theirs = found[0]
    last = list(ours["robust"])[-1]
    return statistics.median(ratios), (
        f"AutoAttack standard, one thread, {what}; a tenth of the iterations and queries, so the same mix of attacks; median "
        f"of {len(ratios)} rounds in turn, {min(ratios):.2f} to {max(ratios):.2f}; {attacks}; {seconds(ours):.1f} s, reference {seconds(theirs):.1f} s; left at the end "
        f"{per_cent(ours, last):.1f} %, reference {per_cent(theirs, last):.1f} %")


def speed_figure(network, goal, compute=""):
    return Figure(f"AutoAttack of {network}{', proposed in bf16' if compute else ''}, times faster than the reference",
                  goal, "x", True, lambda root: speed(root, network, compute))


FIGURES = [
    Figure("first APGD step in float32: pixels above 1e-5 of the gradient that differ", 0, "", False,
           lambda root: steps(root, "first")),
    Figure("APGD steps in float32: pixels above 1e-5 of the gradient that differ", 0, "", False,
           lambda root: steps(root, "differ")),
    Figure("runs of APGD and FAB-T in float64: largest difference of a pixel", 1e-9, "", False, runs),
    Figure("FAB-T: rows that end otherwise than in the reference", 2, "", False, fab_rows),
    Figure("robust accuracy on MNIST, beyond the reference's range", 0.2, " points", False,
           lambda root: accuracy(root, "mnist", 2000)),
    Figure("robust accuracy on Fashion-MNIST, beyond the reference's range", 0.2, " points", False,
           lambda root: accuracy(root, "fashion-mnist", 2000)),
    Figure("robust accuracy on Fashion-MNIST in l2, beyond the reference's range", 0.4, " points", False,
           lambda root: accuracy(root, "fashion-mnist", 500, norm="l2", epsilon=EPSILONS["l2"])),
    Figure("outcomes that hang on shards or batches", 0, "", False, invariance),
    speed_figure("cnn-wong-kolter", 1.3),
    speed_figure("preact-resnet-18 of width 16", 1.3),
    speed_figure("cnn-wong-kolter", 2, "bf16"),
    speed_figure("preact-resnet-18 of width 16", 2, "bf16"),
] + pool_figures.FIGURES
