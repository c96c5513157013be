"""Weights files: the bundled one, and those that are refused."""

import hashlib
import re
import shutil
import time
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnst import load_params, quantize_params, save_params
from jaxnst.formats import bundled_weights, check_params
from jaxnst.vgg import CONV_SHAPES

WEIGHTS = bundled_weights()


def refuse(path, *named):
    with pytest.raises(ValueError, match=re.escape(str(path))) as info:
        load_params(path)
    message = str(info.value)
    assert "\n" not in message
    for word in named:
        assert word in message


@pytest.fixture
def copy(tmp_path):
    """A copy of the weights, free to be changed."""
    return Path(shutil.copy(WEIGHTS, tmp_path / "copy.h5"))


def test_keys_shapes_and_types(params):
    assert list(CONV_SHAPES)[0] == "conv1_1"
    assert list(CONV_SHAPES)[-1] == "conv5_4"
    assert set(params) == {"normalize", *CONV_SHAPES}
    filters = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    for layer, before, after in zip(CONV_SHAPES, [3, *filters], filters, strict=False):
        assert {name: leaf.shape for name, leaf in params[layer].items()} == {
            "kernel": (3, 3, before, after),
            "bias": (after,),
        }
    for leaf in jax.tree.leaves(params):
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
    # Table 2 of the paper: VGG19's 144 million without its three dense layers.
    kernels = [leaf.size for leaf in jax.tree.leaves(params)]
    assert sum(kernels) - 6 == 20_024_384


def test_normalize_is_the_mean_of_the_training_pictures(params):
    mean = np.array([123.68, 116.779, 103.939]) / 255
    np.testing.assert_allclose(params["normalize"]["mean"], mean, rtol=1e-5)
    np.testing.assert_array_equal(params["normalize"]["std"], np.ones(3))


def test_codes_are_decoded_by_the_codebook(params):
    with h5py.File(WEIGHTS, "r") as file:
        codes, codebook = file["conv1_1/codes"][()], file["conv1_1/codebook"][()]
        bias = file["conv1_1/bias"][()]
    kernel = np.asarray(params["conv1_1"]["kernel"])
    for index in np.ndindex(*codes.shape):
        assert kernel[index] == codebook[int(codes[index])]
    np.testing.assert_array_equal(params["conv1_1"]["bias"], bias)


def test_loading_is_fast():
    def measure():
        start = time.perf_counter()
        jax.block_until_ready(load_params())
        return time.perf_counter() - start

    assert min(measure() for _ in range(3)) < 1


def test_the_file_is_the_one_that_its_readme_names():
    readme = WEIGHTS.with_name("README.md").read_text(encoding="utf-8")
    named = re.search(r"^SHA256: `([0-9a-f]{64})`$", readme, re.MULTILINE)[1]
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == named


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_gives_the_same_as_the_bundled_weights(params, kind):
    jax.tree.map(np.testing.assert_array_equal, load_params(kind(WEIGHTS)), params)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.h5"):
        load_params(tmp_path / "nowhere.h5")


@pytest.mark.parametrize("content", [b"", b"This is a text.\n", b"\x89HDF\r\n\x1a\n"])
def test_a_file_that_is_not_hdf5(tmp_path, content):
    path = tmp_path / "text.h5"
    path.write_bytes(content)
    refuse(path, "HDF5")


@pytest.mark.parametrize("share", [0.001, 0.5, 0.999])
def test_a_truncated_file(tmp_path, share):
    data = WEIGHTS.read_bytes()
    path = tmp_path / "half.h5"
    path.write_bytes(data[: int(share * len(data))])
    refuse(path, "HDF5")


def test_hdf5_of_another_kind(tmp_path):
    path = tmp_path / "other.h5"
    with h5py.File(path, "w") as file:
        file["model_weights"] = np.zeros(3)
    refuse(path, "no VGG19", "model_weights")


@pytest.mark.parametrize(
    "name", ["conv3_2", "conv5_4/codes", "conv1_1/codebook", "conv2_1/bias", "normalize/mean"]
)
def test_something_missing(copy, name):
    with h5py.File(copy, "r+") as file:
        del file[name]
    refuse(copy, name)


@pytest.mark.parametrize(
    ("name", "leaf", "value", "expected", "found"),
    [
        ("conv1_1/bias", "conv1_1/bias", np.zeros(65, np.float32), "(64,)", "(65,)"),
        (
            "conv1_2/codes",
            "conv1_2/kernel",
            np.zeros((5, 5, 64, 64), np.uint8),
            "(3, 3, 64, 64)",
            "(5, 5, 64, 64)",
        ),
        ("normalize/mean", "normalize/mean", np.zeros(1, np.float32), "(3,)", "(1,)"),
    ],
)
def test_a_wrong_shape(copy, name, leaf, value, expected, found):
    with h5py.File(copy, "r+") as file:
        del file[name]
        file[name] = value
    refuse(copy, f"{leaf}: expected {expected}, found {found}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("conv4_1/codes", np.zeros((3, 3, 256, 512), np.int32)),
        ("conv4_1/codebook", np.zeros(16, np.float32)),
    ],
)
def test_codes_of_another_kind(copy, name, value):
    with h5py.File(copy, "r+") as file:
        del file[name]
        file[name] = value
    refuse(copy, "conv4_1", "uint8", "256")


@pytest.mark.parametrize("name", ["conv2_2/codebook", "conv2_2/bias", "normalize/std"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(copy, name, value):
    with h5py.File(copy, "r+") as file:
        changed = file[name][()]
        # Of a codebook, an entry that the kernel is sure to use.
        changed[int(file["conv2_2/codes"][0, 0, 0, 0]) if "codebook" in name else 0] = value
        file[name][...] = changed
    refuse(copy, name.split("/")[0], "finite")


def test_params_of_another_network(params):
    check_params(params)
    with pytest.raises(ValueError, match=r"conv9_9/bias: expected nothing, found \(2,\)") as info:
        check_params(params | {"conv9_9": {"bias": np.zeros(2)}})
    assert "\n" not in str(info.value)
    fewer = {layer: leaves for layer, leaves in params.items() if layer != "conv5_4"}
    with pytest.raises(ValueError, match=r"conv5_4/bias: expected \(512,\), found nothing"):
        check_params(fewer)


# --- saving ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def other(params):
    """Params of more than 256 values a kernel, with an input rule of their own."""
    random = np.random.default_rng(0)
    other = {
        layer: {k: np.float32(v * random.uniform(0.5, 1.5, v.shape)) for k, v in leaves.items()}
        for layer, leaves in params.items()
    }
    return jax.tree.map(jnp.asarray, other)


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".H5", ".safetensors"])
@pytest.mark.parametrize("which", ["params", "other"])
def test_saved_params_are_read_back_the_same(request, tmp_path, suffix, which):
    saved = request.getfixturevalue(which)
    path = tmp_path / f"network{suffix}"
    save_params(path, saved)
    jax.tree.map(np.testing.assert_array_equal, load_params(path), saved)
    assert list(tmp_path.iterdir()) == [path]
    megabytes = path.stat().st_size / 1e6
    assert megabytes < (21 if which == "params" and suffix != ".safetensors" else 81)


def test_the_same_params_give_the_same_bytes(params, tmp_path):
    for suffix in (".h5", ".safetensors"):
        paths = [tmp_path / f"{name}{suffix}" for name in "ab"]
        for path in paths:
            save_params(path, params)
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_a_file_that_is_there_is_replaced_whole_or_not_at_all(params, tmp_path, monkeypatch):
    path = tmp_path / "network.h5"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", fail)
        with pytest.raises(OSError, match="disk full"):
            save_params(path, params)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    save_params(path, params)
    assert path.stat().st_size > 1e6


def test_what_cannot_be_saved(params, tmp_path):
    with pytest.raises(ValueError, match=r"unknown suffix '\.npz'"):
        save_params(tmp_path / "network.npz", params)
    with pytest.raises(FileNotFoundError, match="no folder"):
        save_params(tmp_path / "nowhere" / "network.h5", params)
    with pytest.raises(ValueError, match=r"conv5_4/bias: expected \(512,\), found nothing"):
        save_params(tmp_path / "network.h5", params | {"conv5_4": {}})
    spoilt = params | {"normalize": params["normalize"] | {"std": jnp.zeros(3)}}
    with pytest.raises(ValueError, match="normalize/std has to be positive"):
        save_params(tmp_path / "network.h5", spoilt)
    assert list(tmp_path.iterdir()) == []


# --- quantising --------------------------------------------------------------------------------


def test_quantised_params_are_near_and_have_256_values(other, tmp_path):
    quantised = quantize_params(other)
    for layer in CONV_SHAPES:
        kernel, near = (np.asarray(p[layer]["kernel"]) for p in (other, quantised))
        assert len(np.unique(near)) <= 256
        np.testing.assert_array_equal(quantised[layer]["bias"], other[layer]["bias"])
        # Against the nearest of 256 values at equal distances, the usual 8 bits.
        step = (kernel.max() - kernel.min()) / 255
        uniform = np.round((kernel - kernel.min()) / step) * step + kernel.min()
        errors = [np.square(x - kernel).mean() for x in (near, uniform)]
        assert errors[0] < 0.5 * errors[1], layer
        # Each value is the nearest that there is.
        values = np.unique(near)
        sample = kernel.ravel()[:: max(1, kernel.size // 1000)]
        nearest = np.abs(sample[:, None] - values).min(axis=1)
        chosen = np.abs(near.ravel()[:: max(1, kernel.size // 1000)] - sample)
        np.testing.assert_allclose(chosen, nearest, rtol=1e-5, atol=1e-9)
    path = tmp_path / "network.h5"
    save_params(path, quantised)
    assert path.stat().st_size < 21e6
    jax.tree.map(np.testing.assert_array_equal, load_params(path), quantised)


def test_quantising_again_changes_nothing(params):
    jax.tree.map(np.testing.assert_array_equal, quantize_params(params), params)
