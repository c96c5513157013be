"""Files that are broken, hostile or something else are refused with one clear line."""

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
    """A whole VGG19 as Keras writes it, whose values are all 0."""
    return Path(shutil.copy(GOLDEN, tmp_path / "network.h5"))


def refuse(path, *parts):
    """`load_params` and the command line refuse `path`, and say `parts`."""
    with pytest.raises(ValueError) as info:
        load_params(path)
    message = str(info.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message


def change(path, name, **options):
    """Put another dataset in the place of `name`."""
    with h5py.File(path, "r+") as file:
        del file[name]
        file.create_dataset(name, **options)


def test_the_file_that_the_others_are_made_of_is_fine(path):
    assert set(load_params(path)) == {"normalize", *CONV_SHAPES}


# --- HDF5 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [KERNEL, BIAS, "block3_conv2"])
def test_missing(path, name):
    with h5py.File(path, "r+") as file:
        del file[name]
    refuse(path, "conv3_2/", "found nothing")


@pytest.mark.parametrize(
    ("name", "shape", "shown"),
    [
        (KERNEL, (256, 256, 3, 3), "expected (3, 3, 256, 256), found (256, 256, 3, 3)"),
        (KERNEL, (3, 3, 256, 255), "expected (3, 3, 256, 256), found (3, 3, 256, 255)"),
        (BIAS, (), "expected (256,), found ()"),
        (BIAS, (256, 1), "expected (256,), found (256, 1)"),
    ],
)
def test_wrong_shape(path, name, shape, shown):
    change(path, name, shape=shape, dtype="f4")
    refuse(path, shown)


def test_a_shape_that_would_fill_the_memory(path):
    change(path, KERNEL, shape=(3, 3, 10**7, 10**7), dtype="f4", chunks=(3, 3, 8, 8))
    refuse(path, "found (3, 3, 10000000, 10000000)")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [KERNEL, BIAS])
def test_values_that_are_not_finite(path, name, value):
    with h5py.File(path, "r+") as file:
        file[name][(1,) * file[name].ndim] = value
    refuse(path, "conv3_2", "not finite")


@pytest.mark.parametrize("dtype", ["i4", "u1", h5py.string_dtype(), h5py.ref_dtype, "c8"])
def test_values_that_are_no_floating_numbers(path, dtype):
    change(path, BIAS, shape=(256,), dtype=dtype)
    refuse(path, "conv3_2/bias", "not floating numbers")


def test_a_dataset_without_any_values(path):
    with h5py.File(path, "r+") as file:
        del file[BIAS]
        file[BIAS] = h5py.Empty("f4")
    refuse(path, "expected (256,), found ()")


@pytest.mark.parametrize(
    ("link", "shown"),
    [
        (h5py.ExternalLink("other.h5", "/secret"), "ExternalLink"),
        (h5py.ExternalLink("/etc/passwd", "/"), "ExternalLink"),
        (h5py.SoftLink("/block3_conv3/block3_conv3/bias:0"), "SoftLink"),
        (h5py.SoftLink("/nowhere"), "SoftLink"),
    ],
)
def test_links_are_not_followed(path, link, shown):
    with h5py.File(path.with_name("other.h5"), "w") as file:
        file["secret"] = np.zeros(256, np.float32)
    with h5py.File(path, "r+") as file:
        del file[BIAS]
        file[BIAS] = link
    refuse(path, BIAS, shown)


def test_a_group_that_is_an_external_link(path):
    with h5py.File(path, "r+") as file:
        del file["block3_conv2"]
        file["block3_conv2"] = h5py.ExternalLink(str(GOLDEN), "/block3_conv2")
    refuse(path, "block3_conv2", "ExternalLink")


def test_values_in_another_file(path, tmp_path):
    outside = tmp_path / "secret"
    outside.write_bytes(bytes(1024))
    change(path, BIAS, shape=(256,), dtype="f4", external=[(str(outside), 0, 1024)])
    refuse(path, BIAS, "lie in another file")


def test_a_virtual_dataset(path, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.zeros(256, np.float32)
    layout = h5py.VirtualLayout(shape=(256,), dtype="f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "secret", shape=(256,))
    with h5py.File(path, "r+") as file:
        del file[BIAS]
        file.create_virtual_dataset(BIAS, layout)
    refuse(path, BIAS, "lie in another file")


def test_a_circle_of_groups(path):
    with h5py.File(path, "r+") as file:
        file["block3_conv2/again"] = file["/"]
    assert set(load_params(path)) == {"normalize", *CONV_SHAPES}


def test_a_newer_version(tmp_path):
    path = Path(shutil.copy(bundled_weights(), tmp_path / "network"))
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 2
    refuse(path, "newer jaxnst")


@pytest.mark.parametrize("share", [0.01, 0.3, 0.7, 0.99])
def test_cut_short(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    refuse(path, "HDF5")


def test_damage_is_found_or_harmless(path):
    """Bytes changed at random: params or one line, nothing else."""
    data = bytearray(path.read_bytes())
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        damaged = data.copy()
        for place in random.integers(0, len(data), 30):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            load_params(path)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1
            refused += 1
    assert refused > 0


# --- safetensors -------------------------------------------------------------------------------


def safetensors_file(header, data=b""):
    return struct.pack("<Q", len(header)) + header + data


def one_tensor(dtype, shape, offsets):
    tensor = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    return safetensors_file(json.dumps({"conv1_1.bias": tensor}).encode(), bytes(4))


@pytest.mark.parametrize(
    "content",
    [
        safetensors_file(b"{}"),
        safetensors_file(b'{"a"'),
        struct.pack("<Q", 2**62) + b"{}",
        one_tensor("F32", [64], [0, 256]),
        one_tensor("F32", [2**40, 2**40], [0, 4]),
        one_tensor("F32", [-1], [4, 0]),
        one_tensor("Q9", [1], [0, 4]),
    ],
    ids=["empty", "no json", "huge header", "cut", "overflow", "negative", "unknown type"],
)
def test_broken_safetensors(tmp_path, content):
    path = tmp_path / "network"
    path.write_bytes(content)
    refuse(path, "safetensors")


def test_safetensors_with_nan(tmp_path):
    path = tmp_path / "network"
    arrays = {}
    for layer, (h, w, i, o) in CONV_SHAPES.items():
        arrays[f"{layer}.weight"] = np.zeros((o, i, h, w), np.float32)
        arrays[f"{layer}.bias"] = np.zeros(o, np.float32)
    arrays["conv2_1.bias"][5] = np.nan
    path.write_bytes(save(arrays))
    refuse(path, "conv2_1", "not finite")


# --- MATLAB, and what is no weights file -------------------------------------------------------


def test_broken_matlab(tmp_path):
    path = tmp_path / "network.mat"
    scipy.io.savemat(path, {"layers": np.zeros((1, 43))})
    refuse(path, "MATLAB", "no VGG19")
    data = path.read_bytes()
    path.write_bytes(data[:200])
    refuse(path, "MATLAB")


def test_matlab_without_scipy(tmp_path, monkeypatch):
    path = tmp_path / "network.mat"
    scipy.io.savemat(path, {"layers": np.zeros((1, 43))})
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    refuse(path, "jaxnst[matlab]")


@pytest.mark.parametrize(
    "content", [b"", b"{", b"This is a text, and not a short one.\n", b"\x89PNG\r\n\x1a\n" * 9]
)
def test_no_weights_file(tmp_path, content):
    path = tmp_path / "network.h5"
    path.write_bytes(content)
    refuse(path, "no weights file")


def test_a_keras_archive(tmp_path):
    path = tmp_path / "network.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(GOLDEN, "model.weights.h5")
    refuse(path, "model.weights.h5")


def test_a_folder_and_nothing(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FileNotFoundError, match="no weights file"):
            load_params(path)


def test_the_command_line_says_it_in_one_line(path, capsys):
    path.write_bytes(b"a\nb")
    for command in (["info"], ["verify"], ["convert", "--quantize"]):
        outputs = [str(path.with_name("out.h5"))] if command[0] == "convert" else []
        assert cli.main(["weights", *command, str(path), *outputs]) == 2
        out, err = capsys.readouterr()
        assert out == "" and len(err.splitlines()) == 1 and "no weights file" in err
    assert sorted(p.name for p in path.parent.iterdir()) == ["network.h5"]
