"""Topic speed: the engine beside PyTorch programs, in one run."""
import functools
import json
import pathlib
import re
import statistics

from base_figures import peer_python, run
from figure import Figure, Skip
import gpu_figures
import ranks_figures

# (model, rows, rounds): a step of the ResNet takes seconds.
MODELS = {"cnn-16-32": (128, 15), "cnn-32-64": (128, 15), "preact-resnet-18": (64, 3)}


@functools.lru_cache
def step(root, model, bf16):
    rows, rounds = MODELS[model]
    script = root / "tests" / "benchmark" / "ham_step_peers.py"
    return json.loads(run([peer_python(), script, root / "build" / "tests" / "engine_peer", model, rows, rounds,
                           *(["bf16"] if bf16 else [])]))


def times_faster(root, model, peer, bf16):
    if bf16 and not re.search(r"\b(avx512_bf16|amx_bf16)\b", pathlib.Path("/proc/cpuinfo").read_text()):
        raise Skip("this CPU has no bfloat16: neither avx512_bf16 nor amx_bf16")
    found = step(root, model, bf16)
    ratios = [theirs / ours for theirs, ours in zip(found[peer], found["engine"])]
    return statistics.median(ratios), (
        f"{'bfloat16' if bf16 else 'float32'}, one thread, {found['hard_rows']} of {found['rows']} rows hard, PGD-10, mining step 3; median of "
        f"{len(ratios)} rounds in turn, {min(ratios):.2f} to {max(ratios):.2f}; engine "
        f"{statistics.median(found['engine']):.3g} s, peer {statistics.median(found[peer]):.3g} s")


def figure(model, peer, goal, bf16):
    return Figure(f"HAM step of {model}{' in bf16' if bf16 else ''}, times faster than {peer} PyTorch", goal, "x", True,
                  lambda root: times_faster(root, model, peer, bf16))


FIGURES = [figure(model, "published", 2.5 if bf16 else 1.8, bf16) for bf16 in (False, True) for model in MODELS] + [
    figure(model, "tuned", 1.2 if model.startswith("cnn") else 1.0, bf16) for bf16 in (False, True) for model in MODELS] + ranks_figures.FIGURES + gpu_figures.FIGURES
