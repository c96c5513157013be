"""Files that are damaged, hostile or of another kind are refused in one clear line."""

import json
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
from safetensors.numpy import save

from jaxnst import load_params
from jaxnst.app import cli
from jaxnst.formats import bundled_weights
from jaxnst.vgg import CONV_SHAPES

GOLDEN = Path(__file__).parent / "assets" / "keras" / "tf_keras_weights.h5"
KERNEL, BIAS = "block3_conv2/block3_conv2/kernel:0", "block3_conv2/block3_conv2/bias:0"


@pytest.fixture
def path(tmp_path):
    """A VGG19 as Keras writes it, whose values are all 0."""
    return Path(shutil.copy(GOLDEN, tmp_path / "network.h5"))


def refused(path, *parts):
    """`load_params` refuses `path` in one line, which contains `parts`."""
    with pytest.raises(ValueError) as info:
        load_params(path)
    message = str(info.value)
    assert len(message.splitlines()) == 1
    for part in (str(path), *parts):
        assert part in message


# --- HDF5 --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "dataset", "parts"),
    [
        (KERNEL, None, ["conv3_2/kernel: expected (3, 3, 256, 256), found nothing"]),
        (BIAS, None, ["conv3_2/bias: expected (256,), found nothing"]),
        ("block3_conv2", None, ["conv3_2/bias", "conv3_2/kernel", "found nothing"]),
        (KERNEL, {"shape": (256, 256, 3, 3), "dtype": "f4"}, ["found (256, 256, 3, 3)"]),
        (BIAS, {"shape": (), "dtype": "f4"}, ["expected (256,), found ()"]),
        (BIAS, {"shape": (256, 1), "dtype": "f4"}, ["expected (256,), found (256, 1)"]),
        (BIAS, {"data": h5py.Empty("f4")}, ["expected (256,), found ()"]),
        (  # more than any memory
            KERNEL,
            {"shape": (3, 3, 10**7, 10**7), "dtype": "f4", "chunks": (3, 3, 8, 8)},
            ["found (3, 3, 10000000, 10000000)"],
        ),
        *(
            (BIAS, {"shape": (256,), "dtype": dtype}, ["conv3_2/bias must be floating numbers"])
            for dtype in ("i4", "u1", h5py.string_dtype(), h5py.ref_dtype, "c8")
        ),
        *(
            (BIAS, {"data": np.full(256, value, np.float32)}, ["conv3_2 must be finite"])
            for value in (np.nan, np.inf, -np.inf)
        ),
    ],
)
def test_odd_datasets_are_refused(path, name, dataset, parts):
    with h5py.File(path, "r+") as file:
        del file[name]
        if dataset:
            file.create_dataset(name, **dataset)
    refused(path, *parts)


@pytest.mark.parametrize("name", [BIAS, "block3_conv2"])
@pytest.mark.parametrize(
    "link",
    [
        h5py.ExternalLink("other.h5", "/secret"),
        h5py.ExternalLink("/etc/passwd", "/"),
        h5py.SoftLink("/block3_conv3/block3_conv3/bias:0"),
        h5py.SoftLink("/nowhere"),
    ],
)
def test_links_are_not_followed(path, name, link):
    with h5py.File(path.with_name("other.h5"), "w") as file:
        file["secret"] = np.zeros(256, np.float32)
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = link
    refused(path, name, f"not a {type(link).__name__}")


@pytest.mark.parametrize("kind", ["external", "virtual"])
def test_values_in_another_file_are_not_read(path, tmp_path, kind):
    secret = tmp_path / "secret"
    with h5py.File(secret, "w") as file:
        file["secret"] = np.zeros(256, np.float32)
    layout = h5py.VirtualLayout(shape=(256,), dtype="f4")
    layout[:] = h5py.VirtualSource(secret, "secret", shape=(256,))
    with h5py.File(path, "r+") as file:
        del file[BIAS]
        if kind == "virtual":
            file.create_virtual_dataset(BIAS, layout)
        else:
            file.create_dataset(BIAS, (256,), "f4", external=[(str(secret), 0, 1024)])
    refused(path, BIAS, "not in another file")


def test_a_circle_of_groups_is_harmless(path):
    with h5py.File(path, "r+") as file:
        file["block3_conv2/again"] = file["/"]
    assert set(load_params(path)) == {"normalize", *CONV_SHAPES}


def test_a_newer_version_is_refused(tmp_path):
    path = Path(shutil.copy(bundled_weights(), tmp_path / "network"))
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 2
    refused(path, "newer jaxnst")


def test_damage_is_found_or_harmless(path):
    """Bytes changed at random, and files cut off, give params or one line."""
    data = path.read_bytes()
    for share in (0.01, 0.3, 0.7, 0.99):
        path.write_bytes(data[: int(share * len(data))])
        refused(path, "HDF5")
    random = np.random.default_rng(0)
    refusals = 0
    for _ in range(40):
        damaged = bytearray(data)
        for place in random.integers(0, len(data), 30):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            load_params(path)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1
            refusals += 1
    assert refusals > 0


# --- safetensors, MATLAB and other files -------------------------------------------------------


def with_header(header, data=b""):
    return struct.pack("<Q", len(header)) + header + data


def one_tensor(dtype, shape, offsets):
    tensor = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return with_header(json.dumps({"conv1_1.bias": tensor}).encode(), bytes(4))


def with_nan():
    arrays = {}
    for layer, (h, w, i, o) in CONV_SHAPES.items():
        arrays[f"{layer}.weight"] = np.zeros((o, i, h, w), np.float32)
        arrays[f"{layer}.bias"] = np.full(o, np.nan if layer == "conv2_1" else 0, np.float32)
    return save(arrays)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (lambda: with_header(b"{}"), "safetensors"),
        (lambda: with_header(b'{"a"'), "safetensors"),
        (lambda: struct.pack("<Q", 2**62) + b"{}", "safetensors"),
        (lambda: one_tensor("F32", [64], [0, 256]), "safetensors"),
        (lambda: one_tensor("F32", [2**40, 2**40], [0, 4]), "safetensors"),
        (lambda: one_tensor("F32", [-1], [4, 0]), "safetensors"),
        (lambda: one_tensor("Q9", [1], [0, 4]), "safetensors"),
        (with_nan, "conv2_1 must be finite"),
        (lambda: b"", "must be a weights file: HDF5, torch, safetensors or MATLAB 5"),
        (lambda: b"{", "must be a weights file"),
        (lambda: b"This is a text, and not a short one.\n", "must be a weights file"),
        (lambda: b"\x89PNG\r\n\x1a\n" * 9, "must be a weights file"),
        (lambda: b"\x89HDF\r\n\x1a\n", "not a readable HDF5 file"),
    ],
    ids=[
        *("empty", "not JSON", "huge header", "cut off", "overflow", "negative", "unknown type"),
        *("nan", "no bytes", "one byte", "text", "PNG", "HDF5's first bytes"),
    ],
)
def test_other_files_are_refused(tmp_path, content, part):
    path = tmp_path / "network"
    path.write_bytes(content())
    refused(path, part)


def test_odd_matlab_files_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "network.mat"
    scipy.io.savemat(path, {"layers": np.zeros((1, 43))})
    refused(path, "MATLAB", "no VGG19")
    path.write_bytes(path.read_bytes()[:200])
    refused(path, "MATLAB")
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    refused(path, "pip install 'jaxnst[matlab]'")


def test_a_keras_archive_says_what_to_extract(tmp_path):
    path = tmp_path / "network.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(GOLDEN, "model.weights.h5")
    refused(path, "model.weights.h5")


def test_folders_and_absent_files_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere.h5"):
        with pytest.raises(FileNotFoundError, match="no weights file"):
            load_params(path)


def test_the_command_line_refuses_in_one_line(path, capsys):
    path.write_bytes(b"a\nb")
    for command in (["info"], ["verify"], ["convert", "--quantize"]):
        outputs = [str(path.with_name("out.h5"))] if command[0] == "convert" else []
        assert cli.main(["weights", *command, str(path), *outputs]) == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and "must be a weights file" in err
    assert sorted(p.name for p in path.parent.iterdir()) == ["network.h5"]
