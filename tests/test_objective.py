"""The perceptual loss against pastiche's in torch, against autodiff, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnst import (
    LossWeights,
    ObjectiveConfig,
    compute_targets,
    loss_and_grad,
    perceptual_loss,
    preset,
)

CONFIG = ObjectiveConfig()
WEIGHTS = preset("pastiche")[1]
# Cheap: two blocks of the network.
SHALLOW = ObjectiveConfig(content_layers=("relu2_1",), style_layers=("relu1_1", "relu2_1"))
SHALLOW_WEIGHTS = LossWeights(2.0, 3.0, 0.5, {"relu2_1": 0.7}, {"relu1_1": 0.2, "relu2_1": 0.1})


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "assets" / "pastiche_golden.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def pictures(golden):
    names = ("content", "style", "style2", "image")
    return {name: jnp.asarray(golden[name], jnp.float32) / 255 for name in names}


@pytest.fixture(scope="module")
def small(content, style, params):
    """An image, and targets for it, at which two blocks of the network are compared."""
    content, style = content[:24, :32], style[:28, :20]
    image = content + 0.05 * jax.random.normal(jax.random.key(0), content.shape)
    return image, compute_targets(content, [style], params, config=SHALLOW)


def relative(x, y):
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    return np.linalg.norm(x - y) / np.linalg.norm(y)


@pytest.mark.parametrize("case", ["max", "average", "tv", "two_styles"])
def test_agrees_with_pastiche(case, golden, pictures, params):
    config = replace(CONFIG, pooling="average" if case == "average" else "max")
    weights = WEIGHTS._replace(style=0.0, tv=3 * 127.5) if case == "tv" else WEIGHTS
    styles = [pictures["style"], pictures["style2"]][: 2 if case == "two_styles" else 1]
    targets = compute_targets(pictures["content"], styles, params, config=config)
    (loss, terms), grad = loss_and_grad(pictures["image"], params, targets, weights, config=config)
    assert relative(grad, golden[f"{case}/grad"]) < 1e-3
    names = ("content", "tv") if case == "two_styles" else ("content", "style", "tv")
    for name in names:
        np.testing.assert_allclose(terms[name], golden[f"{case}/{name}"], rtol=1e-4, err_msg=name)
    if case == "two_styles":
        # The mean of losses exceeds the loss of the mean Gram by the spread of the Grams.
        assert terms["style"] < golden["two_styles/style"]
    else:
        np.testing.assert_allclose(loss, golden[f"{case}/loss"], rtol=1e-4)


def test_terms_sum_to_the_loss_and_scale_with_the_weights(small, params):
    image, targets = small
    loss, terms = perceptual_loss(image, params, targets, SHALLOW_WEIGHTS, config=SHALLOW)
    assert set(terms) == {"content", "style", "tv"} and min(terms.values()) > 0
    np.testing.assert_allclose(sum(terms.values()), loss, rtol=1e-6)
    doubled = SHALLOW_WEIGHTS._replace(content=4.0, style=9.0, tv=0)
    more = perceptual_loss(image, params, targets, doubled, config=SHALLOW)[1]
    np.testing.assert_allclose(more["content"], 2 * terms["content"], rtol=1e-6)
    np.testing.assert_allclose(more["style"], 3 * terms["style"], rtol=1e-6)
    assert more["tv"] == 0


def test_layers_weigh_separately(small, params):
    image, targets = small

    def style(**layers):
        weights = SHALLOW_WEIGHTS._replace(style_layers=layers)
        return float(perceptual_loss(image, params, targets, weights, config=SHALLOW)[1]["style"])

    first, second = style(relu1_1=1, relu2_1=0), style(relu1_1=0, relu2_1=1)
    assert first != second
    np.testing.assert_allclose(style(relu1_1=0.2, relu2_1=3), 0.2 * first + 3 * second, rtol=1e-5)


def test_gradient_is_that_of_the_loss(small, params):
    image, targets = small
    (loss, terms), grad = loss_and_grad(image, params, targets, SHALLOW_WEIGHTS, config=SHALLOW)

    def function(image):
        return perceptual_loss(image, params, targets, SHALLOW_WEIGHTS, config=SHALLOW)

    (expected, expected_terms), expected_grad = jax.value_and_grad(function, has_aux=True)(image)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert relative(grad, expected_grad) < 1e-5
    for name, value in terms.items():
        np.testing.assert_allclose(value, expected_terms[name], rtol=1e-6)

    direction = grad / jnp.linalg.norm(grad)
    step = 0.01
    ahead, behind = function(image + step * direction)[0], function(image - step * direction)[0]
    np.testing.assert_allclose((ahead - behind) / (2 * step), jnp.linalg.norm(grad), rtol=0.02)


def test_under_jit_and_vmap(small, params):
    image, targets = small

    def loss(style):
        weights = SHALLOW_WEIGHTS._replace(style=style)
        return perceptual_loss(image, params, targets, weights, config=SHALLOW)[0]

    strengths = jnp.array([0.0, 1.0, 50.0])
    each = [float(loss(s)) for s in strengths]
    assert each[0] < each[1] < each[2]
    np.testing.assert_allclose(jax.vmap(loss)(strengths), each, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(loss)(2.0), loss(2.0), rtol=1e-6)


def test_vmap_over_images_equals_a_loop(small, params):
    image, targets = small
    batch = jnp.stack([image, image[::-1], jnp.zeros_like(image)])

    def grad(image):
        return loss_and_grad(image, params, targets, SHALLOW_WEIGHTS, config=SHALLOW)[1]

    together = jax.vmap(grad)(batch)
    for one, expected in zip(together, batch, strict=True):
        assert relative(one, grad(expected)) < 1e-4


def test_content_alone_is_zero_at_the_content(content, style, params):
    content = content[:24, :32]
    targets = compute_targets(content, [style], params, config=SHALLOW)
    terms = perceptual_loss(content, params, targets, SHALLOW_WEIGHTS, config=SHALLOW)[1]
    np.testing.assert_allclose(terms["content"], 0, atol=1e-9)
    targets = compute_targets(content, [content], params, config=SHALLOW)
    terms = perceptual_loss(content, params, targets, SHALLOW_WEIGHTS, config=SHALLOW)[1]
    np.testing.assert_allclose(terms["style"], 0, atol=1e-5)


def test_blend_shares(content, style, params):
    content, styles = content[:24, :32], [style[:20, :20], style[5:29, 4:32]]

    def grams(styles, blend=None):
        targets = compute_targets(content, styles, params, config=SHALLOW, blend=blend)
        return targets.style["relu2_1"]

    first, second = grams(styles[:1]), grams(styles[1:])
    assert relative(first, second) > 0.01
    np.testing.assert_allclose(grams(styles, [1, 0]), first, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(grams(styles, [0, 3]), second, rtol=1e-5, atol=1e-5)
    assert relative(grams(styles), (first + second) / 2) < 1e-5
    assert relative(grams(styles, [3, 1]), 0.75 * first + 0.25 * second) < 1e-5


def test_errors_of_targets(content, style, params):
    with pytest.raises(ValueError, match="at least one style"):
        compute_targets(content, [], params, config=SHALLOW)
    with pytest.raises(TypeError, match="must be a list"):
        compute_targets(content, style, params, config=SHALLOW)
    for blend in ([1.0], [1.0, 1.0, 1.0], 1.0):
        with pytest.raises(ValueError, match="blend has shape"):
            compute_targets(content, [style, style], params, config=SHALLOW, blend=blend)
    with pytest.raises(ValueError, match=r"style must have the shape"):
        compute_targets(content, [style[..., :1]], params, config=SHALLOW)
    with pytest.raises(TypeError, match=r"content must hold floating numbers"):
        compute_targets((content * 255).astype(jnp.uint8), [style], params, config=SHALLOW)


def test_errors_of_weights_and_shapes(small, params):
    image, targets = small
    for change in (
        {"style_layers": {"relu1_1": 1.0}},
        {"style_layers": {"relu1_1": 1.0, "relu2_1": 1.0, "relu3_1": 1.0}},
        {"content_layers": {"relu4_2": 1.0}},
    ):
        with pytest.raises(ValueError, match=f"the weights have {next(iter(change))}"):
            perceptual_loss(
                image, params, targets, SHALLOW_WEIGHTS._replace(**change), config=SHALLOW
            )
    with pytest.raises(ValueError, match="same shape"):
        perceptual_loss(image[:16], params, targets, SHALLOW_WEIGHTS, config=SHALLOW)


@pytest.mark.parametrize(
    "bad",
    [
        {"pooling": "mean"},
        {"statistic": "mean"},
        {"content_distance": "sum"},
        {"dtype": "float16"},
        {"style_layers": ("relu9_1",)},
        {"content_layers": (), "style_layers": ()},
    ],
)
def test_config_refuses(bad):
    with pytest.raises(ValueError):
        ObjectiveConfig(**bad)


def test_config_refuses_a_name_for_a_tuple():
    with pytest.raises(TypeError, match="tuple"):
        ObjectiveConfig(style_layers="relu1_1")


def test_config_is_a_value():
    listed = ObjectiveConfig(style_layers=["relu1_1"])
    assert listed == ObjectiveConfig(style_layers=("relu1_1",))
    assert hash(listed) == hash(ObjectiveConfig(style_layers=("relu1_1",)))
    assert listed != CONFIG
    assert len({CONFIG, ObjectiveConfig(), replace(CONFIG, pooling="average")}) == 2


def test_bfloat16_is_close(small, content, style, params):
    image, targets = small
    config = replace(SHALLOW, dtype="bfloat16")
    rough = compute_targets(content[:24, :32], [style[:28, :20]], params, config=config)
    assert rough.content["relu2_1"].dtype == jnp.bfloat16
    assert rough.style["relu2_1"].dtype == jnp.float32
    (loss, _), grad = loss_and_grad(image, params, rough, SHALLOW_WEIGHTS, config=config)
    (expected, _), exact = loss_and_grad(image, params, targets, SHALLOW_WEIGHTS, config=SHALLOW)
    assert loss.dtype == grad.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=0.05)
    assert relative(grad, exact) < 0.2
