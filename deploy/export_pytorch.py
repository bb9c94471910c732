#!/usr/bin/env python3
"""Turns a PyTorch state dict into a safetensors file for ham-trainer, and checks that both make the same of it.

  deploy/export_pytorch.py MODEL WEIGHTS.pth OUT.safetensors [--check SOURCE]

MODEL is a name that `ham-trainer models` lists. WEIGHTS.pth is what torch.save() wrote: a state dict, or a dictionary
that holds one under "state_dict", "model" or "net". The networks must be of the usual form with the usual names; if
they normalise pixels inside, say with which numbers: --mean 0.4914,0.4822,0.4465 --standard-deviation 0.2471,...

--check compares logits; the file is written only if they are equal but for rounding. SOURCE is one of
  my_models.py:make    a function without arguments that returns your network; it gets the weights of WEIGHTS.pth, and
                       random images of the size that `ham-trainer models` lists
  outputs.pt           written by your program: torch.save({"images": x, "logits": model(x)}, "outputs.pt"), x float32
                       in [0, 1] and of shape [N, C, H, W], model in evaluation mode
Needs torch; run it where your network runs. Files are loaded with weights_only=True.
"""
import argparse
import ctypes
import importlib.util
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile

import torch

DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
NESTS = ("state_dict", "model", "net")
PARALLEL = "module."
ROWS = 16
# Of the largest logit; float32 in another order of sums.
ALLOWED = 1e-4


def write_safetensors(path, tensors, metadata):
    header, data = {"__metadata__": metadata}, bytearray()
    for name, tensor in tensors.items():
        values = tensor.detach().cpu().contiguous()
        raw = ctypes.string_at(values.data_ptr(), values.nbytes) if values.numel() else b""
        header[name] = {"dtype": DTYPES[values.dtype], "shape": list(values.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def read_safetensors(path):
    """Tensors and metadata."""
    raw = pathlib.Path(path).read_bytes()
    begin = 8 + struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8:begin])
    metadata = header.pop("__metadata__", {})
    types = {name: dtype for dtype, name in DTYPES.items()}
    out = {}
    for name, entry in header.items():
        data = bytearray(raw[begin + entry["data_offsets"][0]:begin + entry["data_offsets"][1]])
        empty = torch.empty(0, dtype=types[entry["dtype"]])
        out[name] = (torch.frombuffer(data, dtype=empty.dtype) if data else empty).reshape(entry["shape"])
    return out, metadata


def is_state_dict(value):
    return isinstance(value, dict) and bool(value) and all(isinstance(item, torch.Tensor) for item in value.values())


def load_state_dict(path):
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        sys.exit(f"{path}: not a file of tensors alone: {str(error).splitlines()[0]}; save model.state_dict()")
    for key in NESTS:
        if not is_state_dict(content) and isinstance(content, dict) and is_state_dict(content.get(key)):
            content = content[key]
    if not is_state_dict(content):
        sys.exit(f"{path}: no state dict, neither itself nor under {', '.join(NESTS)}; save model.state_dict()")
    if all(name.startswith(PARALLEL) for name in content):
        content = {name[len(PARALLEL):]: tensor for name, tensor in content.items()}
    unknown = [f"{name} is {tensor.dtype}" for name, tensor in content.items() if tensor.dtype not in DTYPES]
    if unknown:
        sys.exit(f"{path}: {unknown[0]}; allowed are {', '.join(map(str, DTYPES))}: convert it")
    return content


def numbers(text):
    return [float(number) for number in text.split(",")]


def logits_of_function(source, state, shape):
    file, function = source.rsplit(":", 1)
    sys.path.insert(0, str(pathlib.Path(file).resolve().parent))
    spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = getattr(module, function)().cpu().float().eval()
    network.load_state_dict(state)
    images = torch.rand(ROWS, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return images, network(images)


def logits_of_file(path):
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not is_state_dict(content) or not {"images", "logits"} <= set(content):
        sys.exit(f'{path}: holds no tensors "images" and "logits"')
    return content["images"].float(), content["logits"].float()


def run_trainer(trainer, *arguments):
    try:
        done = subprocess.run([trainer, *arguments], capture_output=True, text=True)
    except OSError as error:
        sys.exit(f"--check needs ham-trainer: {error}; deploy/build.sh builds it, --trainer names it")
    if done.returncode != 0:
        sys.exit(done.stderr.strip())
    return done.stdout


def image_shape(trainer, model):
    for known in json.loads(run_trainer(trainer, "models", "--json")):
        if known["name"] == model:
            return [int(size) for size in known["images"].split("x")]
    sys.exit(f"model {model} is unknown; `ham-trainer models` lists them")


def difference(trainer, model, weights, images, logits):
    """Between the trainer's logits and these, in the largest of these."""
    with tempfile.TemporaryDirectory() as folder:
        write_safetensors(f"{folder}/images", {"images": images}, {})
        run_trainer(trainer, "logits", model, weights, f"{folder}/images", f"{folder}/logits")
        ours = read_safetensors(f"{folder}/logits")[0]["logits"]
    if ours.shape != logits.shape:
        sys.exit(f"--check: logits are of shape {list(logits.shape)}, those of ham-trainer of {list(ours.shape)}")
    return float((ours - logits).abs().max() / logits.abs().max())


def check(arguments, state, weights):
    if ":" in arguments.check:
        images, logits = logits_of_function(arguments.check, state, image_shape(arguments.trainer, arguments.model))
    else:
        images, logits = logits_of_file(arguments.check)
    found = difference(arguments.trainer, arguments.model, weights, images, logits)
    if not found <= ALLOWED:
        sys.exit(f"--check: logits differ by {found:.1e} of the largest, allowed is {ALLOWED:.0e}: is it {arguments.model}, "
                 "in evaluation mode, and does it normalise with the numbers given, or with none?")
    print(f"logits of {len(images)} images differ by {found:.1e} of the largest")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("weights", metavar="WEIGHTS.pth")
    parser.add_argument("out", metavar="OUT.safetensors")
    parser.add_argument("--mean", type=numbers)
    parser.add_argument("--standard-deviation", type=numbers)
    parser.add_argument("--check", metavar="SOURCE")
    parser.add_argument("--trainer", default=pathlib.Path(__file__).resolve().parents[1] / "build/bin/ham-trainer")
    arguments = parser.parse_args(arguments)
    if (arguments.mean is None) != (arguments.standard_deviation is None):
        parser.error("--mean and --standard-deviation go together")
    state = load_state_dict(arguments.weights)
    normalization = {"mean": arguments.mean, "standard_deviation": arguments.standard_deviation}
    metadata = {key: json.dumps(value, separators=(",", ":")) for key, value in normalization.items() if value}
    unchecked = arguments.out + ".unchecked"
    write_safetensors(unchecked, state, {"format": "pt"} | metadata)
    try:
        if arguments.check:
            check(arguments, state, unchecked)
        os.replace(unchecked, arguments.out)
    finally:
        pathlib.Path(unchecked).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
