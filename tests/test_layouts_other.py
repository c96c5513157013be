"""Networks that are cut, and files of another network."""

import h5py
import jax
import numpy as np
import pytest
from torch_writer import Tensor, Zeros, as_oxford, torch_state, write_zip

import jaxnst
from jaxnst import extract_features, load_params
from jaxnst.formats import inspect_weights


@pytest.fixture(scope="module")
def oxford(params):
    return as_oxford(params)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network"


# --- Networks that are cut ------------------------------------------------------------------------


@pytest.mark.parametrize("traced", [False, True])
def test_a_layer_that_is_missing_is_refused_when_it_is_asked_for(
    params, oxford, content, tmp_path, traced
):
    write_zip(tmp_path / "network", torch_state(oxford, count=3))
    cut = load_params(tmp_path / "network", input="caffe")
    expected = extract_features(content, params, layers=("relu2_1",))["relu2_1"]
    found = extract_features(content, cut, layers=("relu2_1",))["relu2_1"]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    objective = jaxnst.Objective({"style": jaxnst.Style(layers=("relu2_1", "relu2_2"))})

    def deeper(params):
        return jaxnst.compute_targets({"style": content}, params, objective=objective)

    message = "params must hold conv2_2 for relu2_2, but end after conv2_1"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(deeper, cut) if traced else deeper(cut)


@pytest.mark.parametrize("suffix", [".h5", ".safetensors"])
def test_cut_params_are_saved_and_read_back_the_same(params, tmp_path, suffix):
    cut = {layer: params[layer] for layer in ("normalize", "conv1_1", "conv1_2")}
    jaxnst.save_params(tmp_path / f"cut{suffix}", jaxnst.quantize_params(cut))
    loaded = load_params(tmp_path / f"cut{suffix}")
    assert set(loaded) == set(cut)
    jax.tree.map(np.testing.assert_array_equal, loaded, cut)


# --- Another network ------------------------------------------------------------------------------


def vgg(*counts, normalised=False):
    """A state dict in torchvision's layout, `counts` convolutions by block."""
    state, position, channels = {}, 0, 3
    for count, width in zip(counts, (64, 128, 256, 512, 512), strict=True):
        for _ in range(count):
            state[f"features.{position}.weight"] = (width, channels, 3, 3)
            state[f"features.{position}.bias"] = (width,)
            if normalised:
                position += 1
                for name in ("weight", "bias", "running_mean", "running_var"):
                    state[f"features.{position}.{name}"] = (width,)
            position, channels = position + 2, width
        position += 1
    return {k: Tensor(Zeros(1), shape, (0,) * len(shape)) for k, shape in state.items()}


def keras_vgg16(path):
    kernels = [x.shape for name, x in vgg(2, 2, 3, 3, 3).items() if name.endswith("weight")]
    names = [f"block{b}_conv{i}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(1, n + 1)]
    with h5py.File(path, "w") as file:
        for name, (o, i, h, w) in zip(names, kernels, strict=True):
            file.create_dataset(f"{name}/{name}/kernel:0", (h, w, i, o), "f4")
            file.create_dataset(f"{name}/{name}/bias:0", (o,), "f4")


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda path: write_zip(path, vgg(1, 1, 2, 2, 2)), "VGG11"),
        (lambda path: write_zip(path, vgg(2, 2, 2, 2, 2)), "VGG13"),
        (lambda path: write_zip(path, vgg(2, 2, 3, 3, 3)), "VGG16"),
        (lambda path: write_zip(path, vgg(2, 2, 3, 3, 3, normalised=True)), "VGG16 with batch"),
        (lambda path: write_zip(path, vgg(2, 2, 4, 4, 4, normalised=True)), "VGG19 with batch"),
        (keras_vgg16, "VGG16"),
    ],
    ids=["VGG11", "VGG13", "VGG16", "VGG16 normalised", "VGG19 normalised", "VGG16 by Keras"],
)
def test_another_network_is_called_by_its_name(path, write, name):
    write(path)
    with pytest.raises(ValueError, match=f"it must be VGG19, not {name}") as info:
        load_params(path, input="caffe")
    assert "\n" not in str(info.value) and len(str(info.value)) < 300


def test_arrays_that_differ_are_shown_side_by_side(oxford, path):
    state = torch_state(oxford, count=3)
    state["features.2.weight"] = np.zeros((64, 64, 5, 5), np.float32)
    del state["features.5.bias"]
    foreign = {f"features.1.{name}": np.zeros(64, np.float32) for name in "ab"}
    write_zip(path, state | foreign)
    with pytest.raises(ValueError) as info:
        load_params(path)
    assert str(info.value) == (
        f"{path} is refused: it is not VGG19: conv1_2/kernel: expected (64, 64, 3, 3), found "
        "(64, 64, 5, 5); conv2_1/bias: expected (128,), found nothing; features.1.a: expected "
        "nothing, found (64,); 1 more"
    )
    assert inspect_weights(path).mismatches == {
        "conv1_2/kernel": ((64, 64, 3, 3), (64, 64, 5, 5)),
        "conv2_1/bias": ((128,), None),
        **dict.fromkeys(foreign, (None, (64,))),
    }


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (
            lambda net: {"a": torch_state(net, count=2), "b": torch_state(net, count=2)},
            r"2 networks, under 'a\.features\.' and 'b\.features\.'; save one of them alone",
        ),
        (
            lambda net: {k: x for k, x in torch_state(net).items() if "16" not in k},
            r"conv3_4/bias: expected \(256,\), found nothing; conv3_4/kernel: .* found nothing$",
        ),
        (
            lambda net: {"encoder.weight": np.zeros((2, 3)), "x" * 900: np.zeros(1)},
            r"this torch file has no VGG19 .* of its 2 arrays: 'encoder\.weight', 'x{35}\.\.\.'$",
        ),
        (lambda net: {"9" * 900 + ".weight": np.zeros(1)}, ": 9{40}: expected nothing, found"),
    ],
    ids=["two", "a hole", "none", "a long number"],
)
def test_files_without_one_vgg19_are_refused(oxford, path, state, reason):
    write_zip(path, state(oxford))
    with pytest.raises(ValueError, match=reason) as info:
        load_params(path, input="caffe")
    assert "\n" not in str(info.value) and len(str(info.value)) < 350
