"""Figures of models beside PyTorch, from tests/interop; part of topic engine."""
import functools
import json
import os
import pathlib
import shutil
import tempfile

from base_figures import peer_python, run
from figure import Figure, Skip

# (model, width): 0 as published, else narrow.
STEPS = [("preact-resnet-18", 8), ("preact-resnet-18", 0), ("wrn-28-10", 1), ("cnn-16-32", 0), ("cnn-wong-kolter", 0)]
FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")


def script(root):
    return [peer_python(), root / "tests" / "interop" / "pytorch_peer.py"]


def peer(root):
    return root / "build" / "tests" / "engine_peer"


@functools.lru_cache
def steps(root):
    return [json.loads(run([*script(root), "step", peer(root), model, width])) for model, width in STEPS]


def label(step):
    return f"{step['model']} width {step['width']}, {step['hard_rows']} of {step['rows']} rows hard"


def worst(root, value, detail):
    found = [(value(step), step) for step in steps(root)]
    how = "; ".join(f"{label(step)}: {detail(step)}" for _, step in found)
    return max(number for number, _ in found), how


def mask_and_pixels(root):
    return worst(root, lambda s: s["float64"]["mask_differs"] + s["float64"].get("pixels_differ", 1),
                 lambda s: f"{s['float64']['mask_differs']} rows, {s['float64'].get('pixels_differ')} pixels")


def exact_gradients(root):
    return worst(root, lambda s: s["float64"]["worst"],
                 lambda s: f"{s['float64']['worst']:.1e} at {s['float64']['worst_tensor']}")


def single_pixels(root):
    return worst(root, lambda s: s["float32"]["pixels_differ"],
                 lambda s: f"{s['float32']['pixels_differ']}, and {s['float32']['pixels_differ_at_kinks']} of rows "
                           f"with a ReLU input within rounding of 0, {s['float32']['pixels_differ_below_1e-5']} of smaller "
                           f"gradients")


def single_gradients(root):
    return worst(root, lambda s: s["float32"]["gradient_error"] / s["float32"]["pytorch_gradient_error"],
                 lambda s: f"{s['float32']['gradient_error']:.1e}, PyTorch's "
                           f"{s['float32']['pytorch_gradient_error']:.1e}")


def robust_error(root, weights, data, known):
    folder = pathlib.Path(os.environ.get("HAM_TEST_DATA", "/nowhere"))
    file, images = folder / "robust-weights" / weights, folder / "mnist-test" if data == "mnist" else FASHION_MNIST
    for path in (file, images):
        if not path.exists():
            raise Skip(f"{path} is absent; HAM_TEST_DATA names a folder with robust-weights and mnist-test")
    with tempfile.TemporaryDirectory() as temporary:
        shutil.copytree(images, f"{temporary}/{data}")
        run([peer_python(), root / "deploy/export_pytorch.py", "cnn-wong-kolter", file, f"{temporary}/weights.safetensors"])
        error = float(run([peer(root), "evaluate", f"{temporary}/weights.safetensors", temporary, data]))
    return abs(error - known), f"{error:.2f} %, known {known} %; PGD-100, epsilon 0.1, step 0.01, wrong at any iterate"


FIGURES = [
    Figure("HAM step in float64: rows and pixels that differ from PyTorch's", 0, "", False, mask_and_pixels),
    Figure("HAM step in float64: loss, gradients, statistics", 1e-10, "", False, exact_gradients),
    Figure("attack steps in float32: pixels above 1e-5 of the gradient that differ", 0, "", False, single_pixels),
    Figure("gradient in float32: error in PyTorch's errors", 2, "", False, single_gradients),
    Figure("robust error of published MNIST weights, away from the known", 0.1, " points", False,
           lambda root: robust_error(root, "mnist.pth", "mnist", 4.07)),
    Figure("robust error of published Fashion-MNIST weights, away from the known", 0.1, " points", False,
           lambda root: robust_error(root, "fashion_mnist.pth", "fashion-mnist", 31.67)),
]
