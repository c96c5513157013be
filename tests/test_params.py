"""Params: the bundled ones, saved ones, quantised ones, and those that are refused."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_writer import FEATURES, Tensor, Zeros, load_refused, write_old, write_zip

import jaxnst
from jaxnst import load_params, quantize_params, save_params
from jaxnst.formats import bundled_weights, check_params
from jaxnst.vgg import CONV_SHAPES

WEIGHTS = bundled_weights()


# --- the bundled weights -----------------------------------------------------------------------


def test_keys_shapes_and_types(params):
    assert set(params) == {"normalize", *CONV_SHAPES}
    filters = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    for layer, before, after in zip(CONV_SHAPES, [3, *filters], filters, strict=False):
        assert {name: leaf.shape for name, leaf in params[layer].items()} == {
            "kernel": (3, 3, before, after),
            "bias": (after,),
        }
    leaves = jax.tree.leaves(params)
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in leaves)
    # Table 2 of the paper: the 144 million of VGG19 without its three dense layers.
    assert sum(leaf.size for leaf in leaves) - 6 == 20_024_384


def test_normalize_is_the_mean_of_the_training_pictures(params):
    mean = np.array([123.68, 116.779, 103.939]) / 255
    np.testing.assert_allclose(params["normalize"]["mean"], mean, rtol=1e-5)
    np.testing.assert_array_equal(params["normalize"]["std"], np.ones(3))


def test_codes_are_decoded_by_the_codebook(params):
    with h5py.File(WEIGHTS, "r") as file:
        codes, codebook = file["conv1_1/codes"][()], file["conv1_1/codebook"][()]
    kernel = np.asarray(params["conv1_1"]["kernel"])
    for index in np.ndindex(*codes.shape):
        assert kernel[index] == codebook[int(codes[index])]


def test_the_readme_has_the_checksum_of_the_file():
    readme = WEIGHTS.with_name("README.md").read_text(encoding="utf-8")
    named = re.search(r"^SHA256: `([0-9a-f]{64})`$", readme, re.MULTILINE)[1]
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == named


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "parts"),
    [
        ("conv5_4/codes", None, ["'conv5_4/codebook', but no 'conv5_4/codes'"]),
        ("conv1_1/codebook", None, ["'conv1_1/codes', but no 'conv1_1/codebook'"]),
        ("normalize/mean", None, ["normalize/mean: expected (3,), found nothing"]),
        (
            "conv1_2/codes",
            np.zeros((5, 5, 64, 64), np.uint8),
            ["conv1_2/kernel: expected (3, 3, 64, 64), found (5, 5, 64, 64)"],
        ),
        ("normalize/mean", np.zeros(1, np.float32), ["normalize/mean: expected (3,), found (1,)"]),
        ("conv4_1/codes", np.zeros((3, 3, 256, 512), np.int32), ["conv4_1", "uint8", "not int32"]),
        ("conv4_1/codebook", np.zeros(16, np.float32), ["conv4_1", "256 values", "(16,)"]),
        ("conv2_2/codebook", np.full(256, np.nan, np.float32), ["conv2_2 must be finite"]),
        ("normalize/std", np.full(3, np.inf, np.float32), ["normalize must be finite"]),
        ("normalize/std", np.zeros(3, np.float32), ["std must be positive, not [0.0, 0.0, 0.0]"]),
    ],
)
def test_malformed_files_are_refused(tmp_path, name, value, parts):
    path = Path(shutil.copy(WEIGHTS, tmp_path / "copy.h5"))
    with h5py.File(path, "r+") as file:
        del file[name]
        if value is not None:
            file[name] = value
    load_refused(path, *parts)


def test_params_of_another_network_are_refused(params):
    check_params(params)
    with pytest.raises(ValueError, match=r"conv9_9/bias: expected nothing, found \(2,\)$"):
        check_params(params | {"conv9_9": {"bias": np.zeros(2)}})


# --- saving ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(params):
    """Params of more than 256 values a kernel, with an input rule of their own."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf * random.uniform(0.5, 1.5, leaf.shape), jnp.float32), params
    )


@pytest.mark.parametrize(
    ("which", "suffix", "megabytes"),
    [("params", ".h5", 21), ("params", ".safetensors", 81), ("other", ".H5", 81)],
)
def test_saved_params_are_read_back_the_same(request, tmp_path, which, suffix, megabytes):
    saved = request.getfixturevalue(which)
    paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
    for path in paths:
        save_params(path, saved)
    jax.tree.map(np.testing.assert_array_equal, load_params(str(paths[0])), saved)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert sorted(tmp_path.iterdir()) == paths
    assert megabytes - 2 < paths[0].stat().st_size / 1e6 < megabytes


@pytest.mark.parametrize("suffix", [".hdf5", ".safetensors"])
def test_an_existing_file_is_replaced_whole_or_not_at_all(params, tmp_path, monkeypatch, suffix):
    path, params = tmp_path / f"network{suffix}", {k: params[k] for k in ("normalize", "conv1_1")}
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="disk full"):
            save_params(path, params)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    save_params(path, params)
    jax.tree.map(np.testing.assert_array_equal, load_params(path), params)


@pytest.mark.parametrize(
    ("name", "changes", "error", "reason"),
    [
        ("network.npz", {}, ValueError, r"unknown suffix '\.npz'"),
        ("nowhere/network.h5", {}, FileNotFoundError, "no folder"),
        ("network.h5", {"conv5_4": {}}, ValueError, r"conv5_4/bias: expected \(512,\), found noth"),
    ],
)
def test_refuses_to_save(params, tmp_path, name, changes, error, reason):
    with pytest.raises(error, match=reason):
        save_params(tmp_path / name, params | changes)
    assert list(tmp_path.iterdir()) == []


# --- quantising --------------------------------------------------------------------------------


def test_quantised_params_are_near_and_have_256_values(other, tmp_path):
    layers = ("conv1_1", "conv1_2", "conv2_1", "conv2_2")
    other = {layer: other[layer] for layer in ("normalize", *layers)}
    quantised = quantize_params(other)
    for layer in layers:
        kernel, near = (np.asarray(p[layer]["kernel"]) for p in (other, quantised))
        values = np.unique(near)
        assert len(values) <= 256
        np.testing.assert_array_equal(quantised[layer]["bias"], other[layer]["bias"])
        # Compared with 256 values at equal distances, the usual 8 bits.
        step = (kernel.max() - kernel.min()) / 255
        uniform = np.round((kernel - kernel.min()) / step) * step + kernel.min()
        errors = [np.square(x - kernel).mean() for x in (near, uniform)]
        assert errors[0] < 0.5 * errors[1], layer
        # Each value is replaced by the nearest.
        sample = kernel.ravel()[:: max(1, kernel.size // 1000)]
        nearest = np.abs(sample[:, None] - values).min(axis=1)
        chosen = np.abs(near.ravel()[:: max(1, kernel.size // 1000)] - sample)
        np.testing.assert_allclose(chosen, nearest, rtol=1e-5, atol=1e-9)
    path = tmp_path / "network.h5"
    save_params(path, quantised)
    assert path.stat().st_size < 0.4e6
    jax.tree.map(np.testing.assert_array_equal, load_params(path), quantised)


def test_quantising_again_changes_nothing(params):
    jax.tree.map(np.testing.assert_array_equal, quantize_params(params), params)


# --- Memory ---------------------------------------------------------------------------------------

# The params are 76 MB, the classifier in the file 494 MB.
LOAD = """
import re, resource, sys, jax, jaxnst
jax.numpy.zeros(1).block_until_ready()  # the memory of JAX itself is not the reader's
with open("/proc/self/status") as file:
    used = 1024 * int(re.search(r"VmData:\\s+(\\d+) kB", file.read())[1])
resource.setrlimit(resource.RLIMIT_DATA, (used + 300_000_000,) * 2)
params = jaxnst.load_params(sys.argv[1], input="torchvision")
assert params["conv5_4"]["kernel"][-1, -1, -1, -1] == 3
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
@pytest.mark.parametrize("write", [write_zip, write_old], ids=["zip", "old"])
def test_the_classifier_costs_no_memory(tmp_path, write):
    path, state = tmp_path / "vgg19.pth", {}
    for number, (h, w, i, o) in zip(FEATURES, CONV_SHAPES.values(), strict=True):
        state[f"features.{number}.weight"] = np.full((o, i, h, w), 3, np.float32)
        state[f"features.{number}.bias"] = np.zeros(o, np.float32)
    for number, shape in {"0": (4096, 25088), "3": (4096, 4096), "6": (1000, 4096)}.items():
        state[f"classifier.{number}.weight"] = Tensor(Zeros(shape[0] * shape[1]), shape)
    write(path, state)
    assert path.stat().st_size > 574_000_000
    environment = os.environ | {"PYTHONPATH": str(Path(jaxnst.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", LOAD, path], env=environment, capture_output=True)
    path.unlink()
    assert done.returncode == 0, done.stderr.decode()
