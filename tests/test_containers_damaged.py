"""Bytes that are no file of weights, or a damaged one, are refused quickly and in one line."""

import json
import random
import struct
import time
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
from torch_writer import as_oxford, load_refused, torch_state, write_old, write_zip

from jaxnst import load_params
from jaxnst.formats import containers

# --- safetensors, MATLAB and other files -------------------------------------------------------


def with_header(header, data=b""):
    return struct.pack("<Q", len(header)) + header + data


def one_tensor(dtype, shape, offsets):
    tensor = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return with_header(json.dumps({"conv1_1.bias": tensor}).encode(), bytes(4))


def floats(kind, value=0.0):
    """A network cut after conv1_1 in `kind` of numbers, each of which is `value`."""
    header, data = {}, b""
    for name, shape in (("weight", [64, 3, 3, 3]), ("bias", [64])):
        new = np.full(shape, value, {"F64": "f8", "F32": "f4"}.get(kind, "u1")).tobytes()
        span = [len(data), len(data) + len(new)]
        header[f"conv1_1.{name}"] = {"dtype": kind, "shape": shape, "data_offsets": span}
        data += new
    return with_header(json.dumps(header).encode(), data)


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matlab(kind, shape, data, name=b"", flags=0):
    """An array of the class `kind` (1 is a cell, 2 a struct, 7 single precision)."""
    sizes = struct.pack(f"<{len(shape)}i", *shape)
    start = element(6, struct.pack("<II", kind | flags, 0)) + element(5, sizes) + element(1, name)
    return element(14, start + data)


def matlab_file(*elements):
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + b"".join(elements)


def cells(depth):
    """Cells within each other, written from the outside, which takes time only once."""
    start = len(matlab(1, (1, 1), b"", b"layers")) - 8
    sizes = [start * (depth - i) for i in range(depth)]
    one = matlab(1, (1, 1), b"", b"layers")[8:]
    return b"".join(
        struct.pack("<II", 14, size + 8 * (depth - i - 1)) + one for i, size in enumerate(sizes)
    )


def packed(data):
    data = zlib.compress(data)
    return struct.pack("<II", 15, len(data)) + data


LAYERS = b"layers"
OTHER_FILES = {
    "no bytes": (b"", "must be a weights file: HDF5, torch, safetensors or MATLAB 5"),
    "one byte": (b"{", "must be a weights file"),
    "text": (b"This is a text, and not a short one.\n", "must be a weights file"),
    "PNG": (b"\x89PNG\r\n\x1a\n" * 9, "must be a weights file"),
    "HDF5's first bytes": (b"\x89HDF\r\n\x1a\n", "a damaged HDF5 file"),
    # safetensors
    "empty": (with_header(b"{}"), "safetensors"),
    "not JSON": (with_header(b'{"a"'), "safetensors"),
    "deep JSON": (with_header(b'{"a":' * 100_000), "a damaged safetensors file"),
    "huge header": (struct.pack("<Q", 2**62) + b"{}", "header has 4611686018427387904 bytes; at"),
    "a huge name": (with_header(b'{"%b": 1}' % (b"x" * 5_000_000)), "header has 5000007 bytes"),
    "cut off": (one_tensor("F32", [64], [0, 256]), "safetensors"),
    "overflow": (one_tensor("F32", [2**40, 2**40], [0, 4]), "safetensors"),
    "negative": (one_tensor("F32", [-1], [4, 0]), "safetensors"),
    "unknown type": (one_tensor("Q9", [1], [0, 4]), "safetensors"),
    **{
        kind: (floats(kind), f"must be floating numbers of 16 bits or more, not {kind}")
        for kind in ("F8_E4M3", "F8_E5M2", "F8_E8M0", "I8", "BOOL")
    },
    "nan": (floats("F32", np.nan), "the values of conv1_1 must be finite, not nan"),
    "beyond float32": (floats("F64", 1e300), "the values of conv1_1 must be finite, not nan"),
    # MATLAB
    "MATLAB's first bytes": (matlab_file()[:40], "its byte order is b''"),
    "MATLAB without layers": (matlab_file(matlab(7, (1, 1), element(7, bytes(4)))), "no VGG19"),
    "MATLAB cut off": (matlab_file(cells(3)), "it is cut off"),
    "cells in each other": (matlab_file(cells(30_000)), "or cells nested deeper than 8"),
    "packed cells": (matlab_file(packed(cells(30_000))), "or cells nested deeper than 8"),
    "a huge cell": (matlab_file(matlab(1, (1, 2**31 - 1), b"", LAYERS)), "of shape (1, 21474836"),
    "many empty arrays": (
        matlab_file(matlab(1, (256, 256), struct.pack("<II", 14, 0) * 2**16, LAYERS)),
        "no VGG19",
    ),
    "gigabytes that are packed": (
        matlab_file(packed(matlab(7, (1,), b"", LAYERS) + struct.pack("<II", 7, 2**31 - 8))),
        "one of its variables has more than 1073741824 bytes",
    ),
    "no packed data": (matlab_file(packed(b"")), "it is cut off"),
    "data that are not packed": (matlab_file(element(15, b"x" * 64)), "a damaged MATLAB file"),
    "an element in a cell": (
        matlab_file(matlab(1, (1, 1), element(7, bytes(4)), LAYERS)), "an element of type 7"
    ),
    "sizes that contradict": (
        matlab_file(
            matlab(1, (1, 1), struct.pack("<II", 14, 8) + matlab(1, (0, 0), b"")[8:], LAYERS)
        ),
        "sizes of its arrays contradict",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_FILES)
def test_other_files_are_refused(tmp_path, name):
    content, part = OTHER_FILES[name]
    path = tmp_path / "network"
    path.write_bytes(content)
    load_refused(path, part)


# --- Damage ---------------------------------------------------------------------------------------


def small_files(params):
    """Writers of a network cut after conv1_1, in each container."""
    cut = {layer: params[layer] for layer in ("normalize", "conv1_1")}
    state = torch_state(as_oxford(params), "", count=1)

    def matconvnet(path, **options):
        kernel, bias = as_oxford(params)["conv1_1"]
        layer = {"name": "conv1_1", "weights": np.array([kernel, bias, None], object)[:2]}
        scipy.io.savemat(path, {"layers": np.array([layer, None])[:1]}, appendmat=False, **options)

    def new_hdf5(path):
        with h5py.File(path, "w", libver="latest") as file:
            for name, array in state.items():
                stem, leaf = name.replace("0", "block1_conv1").split(".")
                name = f"{stem}/{leaf.replace('weight', 'kernel')}"
                array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
                file.create_dataset(name, data=array, chunks=True, compression="gzip")

    return {
        "HDF5": lambda path: containers.write_hdf5(path, flat(cut)),
        "newer HDF5": new_hdf5,
        "safetensors": lambda path: containers.write_safetensors(path, flat(cut)),
        "torch": lambda path: write_zip(path, {"net": state}),
        "older torch": lambda path: write_old(path, {"net": state}),
        "MATLAB": matconvnet,
        "packed MATLAB": lambda path: matconvnet(path, do_compression=True),
    }


def flat(params):
    return {f"{k}/{leaf}": np.asarray(x) for k, d in params.items() for leaf, x in d.items()}


KINDS = ["HDF5", "newer HDF5", "safetensors", "torch", "older torch", "MATLAB", "packed MATLAB"]


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_or_harmless(params, tmp_path, kind):
    """Files cut off, or with bytes changed at random, give params or one line, and quickly."""
    path, draw = tmp_path / "network", random.Random(kind)
    small_files(params)[kind](path)
    rule = {"input": "caffe"} if "torch" in kind else {}
    assert set(load_params(path, **rule)) == {"normalize", "conv1_1"}
    data = path.read_bytes()
    damaged = [data[: len(data) * i // 40] for i in range(40)]
    for _ in range(150):
        one = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 8))):
            # Half of the places are in the first bytes, where most that is no number is.
            place = draw.randrange(len(one) if draw.random() < 0.5 else 1000)
            one[place] = draw.choice((0, 127, 255, draw.randrange(256)))
        damaged.append(one)
    refusals = 0
    for one in damaged:
        path.write_bytes(one)
        start = time.monotonic()
        try:
            load_params(path, **rule)
        except ValueError as error:
            message = str(error)
            assert type(error) is ValueError and message.isprintable() and len(message) < 400
            assert "MemoryError" not in message
            refusals += 1
        assert time.monotonic() - start < 5
    assert refusals > 40
