"""Writes safetensors files of PyTorch tensors, for tests that compare with PyTorch."""
import ctypes
import json
import struct

import torch

_DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.int64: "I64"}


def write(path, tensors, metadata):
    header, data = {"__metadata__": metadata}, bytearray()
    for name, tensor in tensors.items():
        values = tensor.detach().contiguous()
        raw = ctypes.string_at(values.data_ptr(), values.nbytes) if values.numel() else b""
        header[name] = {"dtype": _DTYPES[values.dtype], "shape": list(values.shape),
                        "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)
