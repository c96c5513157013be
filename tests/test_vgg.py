"""The network against torch (by way of stored features), NumPy and itself."""

import re
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import double_precision
from naive_vgg19 import assert_close, vgg19

from jaxnst.vgg import (
    BLOCKS,
    CONV_SHAPES,
    LAYERS,
    VGG19,
    check_image,
    extract_features,
    min_size,
    num_channels,
)

GOLDEN = Path(__file__).parent / "assets" / "pastiche_golden.npz"
GOLDEN_LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu4_2", "relu5_1")
PAIR = ("pool1", "relu2_1")  # with XLA's `reduce_window` wrong in one program on jax 0.10


@pytest.mark.parametrize(
    ("picture", "pooling"), [("content", "max"), ("style", "max"), ("content", "average")]
)
def test_features_agree_with_torch(params, picture, pooling):
    with np.load(GOLDEN) as golden:
        image = np.asarray(golden[picture], np.float32) / 255
        features = extract_features(image, params, layers=GOLDEN_LAYERS, pooling=pooling)
        for layer in GOLDEN_LAYERS:
            expected = golden[f"{picture}/{pooling}/{layer}"]
            found = features[layer][:, :, :: int(golden[f"strides/{layer}"])]
            assert found.shape == expected.shape
            assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max(), layer


def cotangents_of(features):
    """Return noise for each layer, of a scale that gives all layers a part in the gradient."""
    noise = np.random.default_rng(0)
    return {
        layer: np.float32(noise.normal(size=x.shape) / np.linalg.norm(x))
        for layer, x in features.items()
    }


@pytest.mark.parametrize(
    ("size", "layers", "pooling"),
    [
        ((128, 96), LAYERS, "average"),
        ((17, 23), ("conv1_1", "relu2_2", "pool3", "conv4_2", "pool4"), "max"),
        ((4, 4), ("pool2",), "average"),
        *(
            (size, layers, pooling)
            for pooling in ("max", "average")
            for size, layers in [
                ((64, 64), PAIR),
                ((64, 64), ("pool1",)),
                ((64, 48), ("conv1_2", "pool1", "pool2")),
                ((51, 67), ("relu1_2", "pool2", "conv3_1", "relu3_4")),
            ]
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value[:3])),
)
def test_layers_and_gradient_of_one_program_agree_with_numpy(
    params, content, size, layers, pooling
):
    image = jnp.tile(content, (2, 2, 1))[: size[0], : size[1]]
    features, transpose = vgg19(image, params, pooling, layers)

    @jax.jit
    def run(image, params, cotangents):
        extract = partial(extract_features, params=params, layers=layers, pooling=pooling)
        found, pullback = jax.vjp(extract, image)
        return found, *pullback(cotangents)

    cotangents = cotangents_of(features)
    assert_close(run(image, params, cotangents), (features, transpose(cotangents)))


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_each_layer_agrees_with_numpy_without_jit(params, content, pooling):
    image = content[:32, 5:40]
    expected, _ = vgg19(image, params, pooling, LAYERS)
    together = extract_features(image, params, layers=LAYERS, pooling=pooling)
    assert_close(together, expected)
    for layer in LAYERS[::3]:
        alone = extract_features(image, params, layers=(layer,), pooling=pooling)
        np.testing.assert_array_equal(alone[layer], together[layer])


@pytest.mark.parametrize(
    ("pooling", "padding"),
    [
        ("max", "zero"),
        ("average", "zero"),
        ("l2", "replicate"),
        ("scaled-average", ("replicate", "zero")),
        ("scaled-l2", "reflect"),
        ("average", "circular"),
    ],
)
def test_a_batch_and_its_tangents_agree_with_numpy(params, content, pooling, padding):
    images = jnp.stack([content[:32, :48], 1 - content[:32, 40:88]])
    tangents = images[:, ::-1, ::-1]
    layers = (*PAIR, "pool3") if (pooling, padding) == ("average", "zero") else PAIR

    @jax.jit
    @partial(jax.vmap, in_axes=(0, 0, None))
    def run(image, tangent, params):
        extract = partial(extract_features, layers=layers, pooling=pooling, padding=padding)
        extract = partial(extract, params=params)
        return jax.jvp(extract, (image,), (tangent,))

    found, slopes = run(images, tangents, params)
    for lane in range(2):
        features, transpose = vgg19(images[lane], params, pooling, layers, padding)
        for layer in layers:
            assert_close(found[layer][lane], features[layer])
            # ⟨y, J v⟩ = ⟨Jᵀ y, v⟩, where y = J v makes the left side the square of its norm.
            slope = np.asarray(slopes[layer][lane], np.float64)
            np.testing.assert_allclose(
                np.vdot(slope, slope), np.vdot(transpose({layer: slope}), tangents[lane]), rtol=1e-5
            )


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_has_its_shape_and_refuses_smaller_images(params, layer):
    block = int(re.search(r"\d", layer)[0])
    least = 2**block if layer.startswith("pool") else 2 ** (block - 1)
    assert min_size((layer,)) == least
    assert num_channels(layer) == BLOCKS[block - 1][1]
    if layer.startswith("conv"):
        assert params[layer]["kernel"].shape == CONV_SHAPES[layer]

    def extract(height, width):
        image = jax.ShapeDtypeStruct((height, width, 3), jnp.float32)
        return jax.eval_shape(partial(extract_features, layers=(layer,)), image, params)[layer]

    for sides in ((least, least), (37, 75)):
        shape = (*(side // least for side in sides), num_channels(layer))
        assert extract(*sides).shape == shape
    for sides in ((least - 1, 40), (40, least - 1)):
        with pytest.raises(ValueError, match=f"at least {least}x{least} pixels for {layer}"):
            extract(*sides)


@pytest.mark.parametrize(
    ("layers", "convs"),
    [((), 0), (("conv1_1",), 1), (("relu2_1",), 3), (("pool4", "relu1_1"), 12)],
)
def test_nothing_deeper_than_asked_is_computed(params, layers, convs):
    extract = partial(extract_features, params=params, layers=layers)
    assert str(jax.make_jaxpr(extract)(jnp.zeros((16, 16, 3)))).count("= conv3x3[") == convs


IMAGE = np.full((16, 16, 3), 0.5, np.float32)


@pytest.mark.parametrize(
    ("image", "options", "error", "named"),
    [
        (IMAGE, {"layers": ("relu6_1",)}, ValueError, "relu6_1"),
        (IMAGE, {"layers": ["conv1_1", "conv2_3"]}, ValueError, "conv2_3"),
        (IMAGE, {"layers": ("",)}, ValueError, "''"),
        (IMAGE, {"layers": "relu1_1"}, TypeError, '("relu1_1",)'),
        (IMAGE, {"layers": ("pool5",)}, ValueError, "at least 32x32 pixels for pool5, not 16x16"),
        (IMAGE, {"pooling": "avg"}, ValueError, "scaled-average or scaled-l2, not 'avg'"),
        (IMAGE, {"padding": "wrap"}, ValueError, "zero, replicate, reflect, circular"),
        (IMAGE, {"padding": ("zero",) * 3}, ValueError, "not ('zero', 'zero', 'zero')"),
        (IMAGE, {"dtype": "float16"}, ValueError, 'not "float16"'),
        (IMAGE, {"dtype": jnp.float16}, ValueError, 'not "float16"'),
        (IMAGE, {"dtype": np.dtype("int32")}, ValueError, 'not "int32"'),
        (IMAGE, {"dtype": "bfloat17"}, ValueError, 'not "bfloat17"'),
        (IMAGE, {"dtype": "float64"}, ValueError, "JAX_ENABLE_X64"),
        ((255 * IMAGE).astype(np.uint8), {}, TypeError, "not uint8; divide 0..255 by 255"),
        (IMAGE.astype(np.int32), {}, TypeError, "int32"),
        (255 * IMAGE, {}, ValueError, "not up to 127.5; divide 0..255 by 255"),
        (jnp.asarray(255 * IMAGE, jnp.bfloat16), {}, ValueError, "not up to 127.5"),
        (IMAGE.tolist(), {}, TypeError, "list"),
        (IMAGE[None], {}, ValueError, "not (1, 16, 16, 3); for a batch use jax.vmap"),
        (IMAGE[..., :1], {}, ValueError, "(16, 16, 1)"),
        (IMAGE[..., 0], {}, ValueError, "(16, 16)"),
    ],
)
def test_bad_input_is_refused_in_one_line_by_function_and_module(
    params, image, options, error, named
):
    options = {"layers": ("relu1_1",)} | options
    messages = set()
    for call in (
        lambda: extract_features(image, params, **options),
        lambda: VGG19(**options).apply({"params": params}, image),
        lambda: VGG19(**options).init(jax.random.key(0), image),
    ):
        with pytest.raises(error, match=re.escape(named)) as info:
            call()
        messages.add(str(info.value))
    (message,) = messages
    assert "\n" not in message


@pytest.mark.parametrize(
    "image",
    [2 - 3 * IMAGE, 7 * IMAGE, np.full_like(IMAGE, np.nan), IMAGE.astype(np.float16), IMAGE[:0]],
)
def test_images_that_leave_the_range_a_bit_pass(image):
    check_image(image)
    check_image(jnp.asarray(image))
    jax.jit(check_image)(255 * image)  # whose values are not known


@pytest.mark.parametrize("dtype", ["bfloat16", jnp.bfloat16, jnp.dtype("bfloat16")])
def test_bfloat16_by_any_name_is_close_to_float32(content, params, dtype):
    layers = ("conv1_1", *PAIR, "relu3_1")
    exact = extract_features(content[:32, :48], params, layers=layers)
    rough = extract_features(content[:32, :48], params, layers=layers, dtype=dtype)
    assert {x.dtype.name for x in rough.values()} == {"bfloat16"}
    assert_close(rough, exact, 0.03)


CONTEXTS = {
    "plain": nullcontext,
    "rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "dtype promotion": lambda: jax.numpy_dtype_promotion("strict"),
    "leaks": jax.checking_leaks,
    "transfers": lambda: jax.transfer_guard("disallow"),
    "nans": lambda: jax.debug_nans(True),
    "no jit": jax.disable_jit,
}


@pytest.mark.parametrize(
    ("context", "pooling"),
    [*((context, "average") for context in CONTEXTS), ("transfers", "max")],
)
def test_features_and_derivatives_are_the_same_under_jax_s_settings(
    params, content, context, pooling
):
    image = content[:16, :18]
    features = jax.eval_shape(partial(extract_features, layers=PAIR), image, params)
    cotangents = {layer: jnp.ones(x.shape) for layer, x in features.items()}

    def run(image, params, cotangents):
        extract = partial(extract_features, params=params, layers=PAIR, pooling=pooling)
        found, pullback = jax.vjp(jax.checkpoint(extract), image)
        return found, pullback(cotangents), jax.jvp(extract, (image,), (image,))

    expected = run(image, params, cotangents)
    with CONTEXTS[context]():
        found = run(image, params, cotangents)
        jitted = jax.jit(run)(image, params, cotangents)
    assert_close((found, jitted), (expected, expected))


@pytest.fixture
def x64():
    with double_precision():
        yield


@pytest.mark.parametrize("promotion", ["standard", "strict"])
def test_float64_is_exact_throughout(params, content, x64, promotion):
    image = np.asarray(content[:16, :18], np.float64)
    expected, transpose = vgg19(image, params, "average", PAIR)
    cotangents = {layer: np.cos(x) for layer, x in expected.items()}
    options = {"params": params, "layers": PAIR, "pooling": "average"}
    extract = partial(extract_features, dtype="float64", **options)
    with jax.numpy_dtype_promotion(promotion):
        found, pullback = jax.vjp(extract, jnp.asarray(image))
        assert_close((found, *pullback(cotangents)), (expected, transpose(cotangents)), 1e-12)
        rough = extract_features(image, **options)
        assert {x.dtype.name for x in rough.values()} == {"float32"}
        assert_close(rough, expected)
