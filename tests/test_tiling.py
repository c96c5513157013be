"""Tiles against the whole picture: the same loss, gradient and targets, in less memory."""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import call, check_refused, double_precision, normal, uniform
from shallow import OBJECTIVE as SHALLOW
from shallow import SHORT
from shallow import WEIGHTS as SHALLOW_WEIGHTS

import jaxnst
from jaxnst import Content, LossWeights, Objective, Penalty, Picture, Style, devices
from jaxnst.pyramid import resize
from jaxnst.tiles import halo_of, make_plan

#: Every kind of term, with layers that have strides of 1, 2 and 4.
MANY = {
    "content": Content(("relu2_1", "image"), source="photo"),
    "sum": Content(("pool1",), distance=jaxnst.half_squared_error, source="photo"),
    "style": Style(("relu1_1", "conv2_1", "pool2"), source="paint"),
    "raw": Style(("relu1_2",), statistic=jaxnst.raw_gram_matrix, source="paint"),
    "moments": Style(
        ("relu2_1",),
        statistic=jaxnst.mean_and_covariance,
        distance=jaxnst.wasserstein_gaussian,
        source="paint",
    ),
    "histogram": Style(("image",), statistic=jaxnst.quantile_means, source="paint"),
    "tv": Penalty(),
}
MANY_WEIGHTS = LossWeights.ones(Objective(MANY)).replace(content=100.0, sum=0.01, raw=1e-8, tv=1e5)


def relative(x, y):
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    return np.linalg.norm(x - y) / np.linalg.norm(y)


def check_same(found, expected, tolerance):
    """Compare (loss, terms), each by itself, and gradients."""
    (_, terms), grad = found
    (_, expected_terms), expected_grad = expected
    for name, term in expected_terms.items():
        np.testing.assert_allclose(terms[name], term, rtol=tolerance, err_msg=name)
    assert relative(grad, expected_grad) < tolerance


def compiled(objective, **options):
    return jax.jit(partial(jaxnst.loss_and_grad, objective=objective, **options))


def in_float64(*trees):
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x), jnp.float64), trees)


def with_noise(image):
    return image + 0.05 * normal(*image.shape, dtype=image.dtype)


def left_and_right(image):
    """Two regions with a soft border, the second of which is empty in the upper half."""
    ramp = jnp.broadcast_to(jnp.linspace(1, 0, image.shape[1]), image.shape[:2])
    below = (jnp.arange(image.shape[0]) > image.shape[0] // 2)[:, None]
    return jnp.stack([ramp, (1 - ramp) * below])


@pytest.mark.parametrize("layer", ["relu1_1", "relu2_1", "relu4_2", "relu5_1", "pool5"])
@pytest.mark.parametrize("tile", [1, 50, 64, 256])
def test_windows_of_one_shape_hold_each_tile_and_its_halo(layer, tile):
    grid, halo = jaxnst.vgg.min_size((layer,)), halo_of((layer,))
    assert halo % grid == 0
    for side in (*range(150, 200), 517, 1024):
        plan = make_plan((side, 1), (layer,), tile)
        if plan is None:
            continue
        window, starts, cuts = plan.rows
        assert (cuts[0], cuts[-1], len(cuts)) == (0, side, len(starts) + 1)
        for start, first, last in zip(starts, cuts[:-1], cuts[1:], strict=True):
            end, whole = start + window, start + (window // grid) * grid
            assert start % grid == first % grid == 0 <= start and end <= side and first < last
            assert start == 0 or start + halo <= first
            assert end == side or last + halo <= whole  # pools drop what is beyond
            assert last - first <= max(tile, grid) + 2 * halo + grid


@pytest.mark.parametrize(("layer", "width"), [("relu1_2", 5), ("relu2_1", 10), ("relu3_1", 24)])
def test_the_halo_covers_all_that_a_position_sees(layer, width, params):
    image = uniform(64, 64, 3)
    stride = jaxnst.vgg.min_size((layer,))
    at = 32 // stride

    def position(image):
        features = jaxnst.extract_features(image, params, layers=(layer,), pooling="average")
        return jnp.sum(features[layer][at, at])

    seen = np.flatnonzero(np.abs(jax.grad(position)(image)).max((1, 2)))
    assert seen[-1] - seen[0] + 1 == width  # the receptive field
    assert max(at * stride - seen[0], seen[-1] - (at + 1) * stride + 1) <= halo_of((layer,))


@pytest.mark.parametrize(
    ("pooling", "regions"), [pytest.param("max", True, marks=pytest.mark.slow), ("average", False)]
)
def test_every_term_is_the_same_in_tiles(pooling, regions, params, content, style):
    with double_precision():
        photo, paint, params = in_float64(content[:53, :75], style, params)
        image = with_noise(photo)
        masks = left_and_right(image) if regions else None
        padding = "reflect" if regions else "zero"
        objective = Objective(MANY, pooling=pooling, padding=padding, dtype="float64")
        sources = {"photo": photo, "paint": paint}
        if regions:
            sources = {k: Picture(x, left_and_right(x)) for k, x in sources.items()}
        describe = partial(jaxnst.compute_targets, objective=objective)
        targets = jax.jit(describe)(sources, params)
        found = jax.jit(partial(describe, tile=12))(sources, params)
        for x, y in zip(*map(jax.tree.leaves, (found, targets)), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9 * np.abs(y).max())
        args = image, params, targets, MANY_WEIGHTS
        expected = compiled(objective)(*args, regions=masks)
        assert min(expected[0][1].values()) > 0
        check_same(compiled(objective, tile=12)(*args, regions=masks), expected, 1e-9)


def deep(content, style, params, dtype="float32", **options):
    """Return the objective of the recipe "default" and the arguments of its loss."""
    config, weights = jaxnst.preset("default")
    objective = replace(config.objective, dtype=dtype, **options)
    targets = jaxnst.compute_targets(
        {"content": content, "style": style}, params, objective=objective
    )
    return objective, (with_noise(content), params, targets, weights.replace(tv=1000.0))


@pytest.mark.slow
def test_the_deepest_layers_are_the_same_in_tiles_of_odd_pictures(params, content, style):
    with double_precision():
        photo, paint, params = in_float64(resize(content, 201, 37), style, params)
        objective, args = deep(photo, paint, params, "float64", pooling="max")
        check_same(compiled(objective, tile=16)(*args), compiled(objective)(*args), 1e-9)


@pytest.mark.slow
def test_a_large_odd_picture_is_the_same_in_tiles(params, content, style):
    photo = resize(content, 517, 389)
    objective, args = deep(photo, style, params)
    (loss, _), grad = compiled(objective)(*args)
    for tile in (128, 192, 256):
        (found, _), found_grad = compiled(objective, tile=tile)(*args)
        np.testing.assert_allclose(found, loss, rtol=5e-6)
        # A ReLU within rounding of 0 may be open in one and shut in the other, which changes the
        # gradient where its position sees.
        wrong = np.abs(found_grad - grad).max(2) > 1e-5 * np.abs(grad).max()
        assert wrong.mean() < 0.05
        assert relative(np.where(wrong[..., None], grad, found_grad), grad) < 1e-5
    with double_precision():
        objective, args = deep(*in_float64(photo, style, params), "float64")
        check_same(compiled(objective, tile=192)(*args), compiled(objective)(*args), 1e-9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tiles_of_lanes_are_those_of_each_lane(dtype, params, content, style):
    objective = replace(SHALLOW, dtype=dtype)
    sources = {"content": content[:37, :41], "style": style[:20]}
    targets = jaxnst.compute_targets(sources, params, objective=objective)
    image = with_noise(sources["content"])
    lanes = SHALLOW_WEIGHTS.replace(style=jnp.array([0.1, 2.0]))
    axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, lanes)
    tiled = partial(jaxnst.loss_and_grad, objective=objective, tile=16)
    found = jax.jit(jax.vmap(tiled, (None, None, None, axes)))(image, params, targets, lanes)
    whole = compiled(objective)
    for lane, scale in enumerate((0.1, 2.0)):
        expected = whole(image, params, targets, SHALLOW_WEIGHTS.replace(style=scale))
        tolerance = 1e-5 if dtype == "float32" else 0.05
        check_same(jax.tree.map(lambda x, i=lane: x[i], found), expected, tolerance)


def test_the_tiled_loss_has_derivatives_in_every_direction(described, params):
    image, targets = described
    function = partial(jaxnst.perceptual_loss, objective=SHALLOW)

    def slopes(tile):
        def loss(image, weights):
            return function(image, params, targets, weights, tile=tile)[0]

        change = jnp.ones_like(image)
        along = partial(jax.jvp, lambda x: loss(x, SHALLOW_WEIGHTS), (image,), (change,))
        return along()[1], jax.grad(loss, 1)(image, SHALLOW_WEIGHTS).scales["style"]

    for found, expected in zip(slopes(8), slopes(None), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_tiles_need_less_memory():
    content, style = (jax.ShapeDtypeStruct((512, 512, 3), jnp.float32) for _ in range(2))
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), jaxnst.load_params())
    describe = partial(jaxnst.compute_targets, objective=SHALLOW)
    targets = jax.eval_shape(describe, {"content": content, "style": style}, params)
    args = content, params, targets, SHALLOW_WEIGHTS
    whole, tiled = (
        compiled(SHALLOW, tile=tile).lower(*args).compile().memory_analysis().temp_size_in_bytes
        for tile in (None, 128)
    )
    assert tiled < whole / 2


@jax.tree_util.register_static
@dataclass(frozen=True)
class MeanFeatures:
    """A user's own term, which does not say that it is additive."""

    layers: tuple[str, ...] = ("relu1_1",)
    source: str = "style"

    def describe(self, features, regions):
        features, where = features["relu1_1"], regions["relu1_1"]
        where = jnp.ones((1, *features.shape[:2])) if where is None else where
        total = jnp.maximum(where.sum((1, 2)), 1e-9)
        return {"relu1_1": jnp.einsum("rhw,hwc->rc", where, features) / total[:, None]}

    def measure(self, features, regions, target):
        return self.describe(features, regions)

    def score(self, measured, target):
        return {"relu1_1": jnp.mean((measured["relu1_1"] - target["relu1_1"]) ** 2)}


def test_a_term_of_a_users_own_is_the_same_in_tiles(described, params, sources):
    objective = Objective({"mean": MeanFeatures()})
    describe = partial(jaxnst.compute_targets, {"style": sources["style"]}, params)
    targets = describe(objective=objective)
    close = partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    jax.tree.map(close, describe(objective=objective, tile=8), targets)
    args = described[0], params, targets, LossWeights.ones(objective)
    check_same(compiled(objective, tile=8)(*args), compiled(objective)(*args), 1e-5)


@pytest.mark.parametrize(
    "term",
    [
        Style(("relu1_1",), statistic=jaxnst.quantile_means),
        Style(("relu1_1",), statistic=partial(jaxnst.shifted_gram_matrix, shift=(1, 0))),
        Content(("relu1_1", "image"), distance=jaxnst.spectrum_error),
        Penalty(layers=("relu1_1",)),
    ],
)
def test_terms_that_do_not_add_up_are_refused_by_name(term, params, content):
    objective = Objective({"odd": term})
    describe = partial(jaxnst.compute_targets, dict.fromkeys(objective.sources, content), params)
    targets = describe(objective=objective)
    args = content, params, targets, LossWeights.ones(objective)
    with pytest.raises(ValueError, match="the term 'odd' must be a mean or a sum .* leave out"):
        jaxnst.loss_and_grad(*args, objective=objective, tile=512)
    if term.source is not None:
        with pytest.raises(ValueError, match="the term 'odd'"):
            describe(objective=objective, tile=512)


def test_targets_of_another_size_and_circular_padding_are_refused(described, params, content):
    image, targets = described
    larger = jnp.pad(image, ((0, 8), (0, 0), (0, 0)))
    loss = partial(jaxnst.perceptual_loss, tile=8)
    with pytest.raises(ValueError, match="at pool1 .* a source of the image's own size"):
        loss(larger, params, targets, SHALLOW_WEIGHTS, objective=SHALLOW)
    circular = replace(SHALLOW, padding=("circular", "zero"))
    with pytest.raises(ValueError, match="tile must be None, not 8, with circular padding"):
        loss(image, params, targets, SHALLOW_WEIGHTS, objective=circular)


@pytest.mark.parametrize("tile", [0, -16, 16.0, True, "auto"])
def test_tiles_that_are_no_positive_integer_are_refused(tile, described, params):
    args = described[0], params, described[1], SHALLOW_WEIGHTS
    with pytest.raises(ValueError, match=f"tile must be a positive integer or None, not {tile!r}"):
        jaxnst.perceptual_loss(*args, objective=SHALLOW, tile=tile)


def test_a_transfer_in_tiles_makes_the_same_picture(transfer, monkeypatch):
    whole, tiled = transfer(SHORT), transfer(replace(SHORT, tile=16))
    np.testing.assert_allclose(tiled.image, whole.image, atol=1e-4)
    np.testing.assert_allclose(tiled.history["loss"], whole.history["loss"], rtol=1e-4)
    # "auto" is no tiles where there is memory, and otherwise the largest that fit.
    auto = replace(SHORT, tile="auto")
    np.testing.assert_array_equal(transfer(auto).image, whole.image)
    needs = iter((100, 80, 40))
    monkeypatch.setattr(devices, "_TILES", (64, 24, 16, 8))
    monkeypatch.setattr(devices, "free_memory", lambda _: 50)
    monkeypatch.setattr(devices, "memory_of", lambda *_: next(needs))
    np.testing.assert_array_equal(transfer(auto).image, tiled.image)


def test_the_command_line_takes_a_number_or_auto():
    refused = call("transfer", "a.jpg", "b.jpg", "-o", "c.png", "--tile", "0")
    check_refused(refused, "--tile", "positive integer or auto", "'0'")
