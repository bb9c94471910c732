"""Topic speed: the engine beside PyTorch programs, in one run."""
import functools
import json
import statistics

from base_figures import peer_python, run
from figure import Figure
import ranks_figures

# (model, rows, rounds): a step of the ResNet takes seconds.
MODELS = {"cnn-16-32": (128, 15), "cnn-32-64": (128, 15), "preact-resnet-18": (64, 3)}


@functools.lru_cache
def step(root, model):
    rows, rounds = MODELS[model]
    script = root / "tests" / "benchmark" / "ham_step_peers.py"
    return json.loads(run([peer_python(), script, root / "build" / "tests" / "engine_peer", model, rows, rounds]))


def times_faster(root, model, peer):
    found = step(root, model)
    ratios = [theirs / ours for theirs, ours in zip(found[peer], found["engine"])]
    return statistics.median(ratios), (
        f"float32, one thread, {found['hard_rows']} of {found['rows']} rows hard, PGD-10, mining step 3; median of "
        f"{len(ratios)} rounds in turn, {min(ratios):.2f} to {max(ratios):.2f}; engine "
        f"{statistics.median(found['engine']):.3g} s, peer {statistics.median(found[peer]):.3g} s")


def figure(model, peer, goal):
    return Figure(f"HAM step of {model}, times faster than {peer} PyTorch", goal, "x", True,
                  lambda root: times_faster(root, model, peer))


FIGURES = [figure(model, "published", 1.8) for model in MODELS] + [
    figure(model, "tuned", 1.2 if model.startswith("cnn") else 1.0) for model in MODELS] + ranks_figures.FIGURES
