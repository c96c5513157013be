"""Sizes from coarse to fine, resizing, and what is carried from scale to scale."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import uniform
from PIL import Image

from jaxnst.pyramid import carry_moments, pyramid_shapes, resize, shrink


def smooth(height, width):
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    return np.stack([x, y, 1 - x], axis=2).astype(np.float32)


# --- sizes ---------------------------------------------------------------------------------------


def test_shapes_of_crowsonkb():
    sides = [w for _, w in pyramid_shapes((512, 512), min_size=128, scale_factor=2**0.5)]
    assert sides == [128, 181, 256, 362, 512]


@pytest.mark.parametrize(
    ("shape", "min_size", "expected"),
    [
        ((300, 400), 100, [(75, 100), (150, 200), (300, 400)]),
        ((400, 300), 101, [(200, 150), (400, 300)]),
        ((99, 40), 100, [(99, 40)]),
        ((100, 40), 100, [(100, 40)]),
        ((1, 8), 2, [(1, 2), (1, 4), (1, 8)]),
        ((1, 1), 1, [(1, 1)]),
    ],
)
def test_shapes(shape, min_size, expected):
    assert pyramid_shapes(shape, min_size=min_size, scale_factor=2.0) == expected


def test_shapes_end_with_a_factor_near_1():
    shapes = pyramid_shapes((20, 30), min_size=10, scale_factor=1.01)
    assert shapes[-1] == (20, 30)
    assert len(set(shapes)) == len(shapes)
    assert shapes == sorted(shapes)


@pytest.mark.parametrize(("min_size", "factor"), [(0, 2.0), (-1, 2.0), (8, 1.0), (8, np.nan)])
def test_shapes_refuse(min_size, factor):
    with pytest.raises(ValueError, match="pyramid"):
        pyramid_shapes((8, 8), min_size=min_size, scale_factor=factor)


# --- resizing ------------------------------------------------------------------------------------


def test_resize():
    image = smooth(12, 16)
    small = resize(jnp.asarray(image), 6, 9)
    assert small.shape == (6, 9, 3) and small.dtype == jnp.float32
    jitted = jax.jit(resize, static_argnums=(1, 2))(image, 6, 9)
    np.testing.assert_allclose(jitted, small, atol=1e-6)
    channels = [Image.fromarray(np.ascontiguousarray(image[..., c])) for c in range(3)]
    pillow = np.dstack([channel.resize((9, 6), Image.Resampling.LANCZOS) for channel in channels])
    np.testing.assert_allclose(small, pillow.clip(0, 1), atol=1e-5)


def test_resize_is_antialiased():
    checks = np.indices((64, 64)).sum(0)[:, :, None] % 2
    small = np.asarray(resize(jnp.asarray(checks, jnp.float32), 8, 8))
    assert abs(small - 0.5).max() < 0.1


def test_resize_clips_overshoot():
    step = np.zeros((8, 8, 1), np.float32)
    step[:, 4:] = 1
    raw = np.asarray(jax.image.resize(step, (16, 16, 1), "lanczos3"))
    assert raw.min() < -0.01 and raw.max() > 1.01
    np.testing.assert_allclose(resize(jnp.asarray(step), 16, 16), raw.clip(0, 1), atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 18), (8, 3), (1, 1)])
def test_an_image_that_tiles_is_resized_as_the_middle_of_its_copies(shape):
    image = noise(0, 12, 8)
    height, width = shape
    middle = np.s_[3 * height : 4 * height, 3 * width : 4 * width]
    expected = resize(jnp.tile(image, (7, 7, 1)), 7 * height, 7 * width)[middle]
    np.testing.assert_allclose(resize(image, *shape, wrap=True), expected, atol=1e-5)


def test_moments_of_an_image_that_tiles_are_carried_over_its_edges():
    image, start = noise(0, 16, 16), noise(1, 32, 32)
    optimizer = optax.adam(0.1)
    fresh = optimizer.init(start)
    _, state = optimizer.update(image, optimizer.init(image))

    def carry(state):
        moments = carry_moments(state, fresh, start.shape, wrap=True)[0]
        return moments.mu, moments.nu

    shifted = jax.tree.map(lambda x: jnp.roll(x, (3, 5), (0, 1)) if x.ndim else x, state)
    for found, plain in zip(carry(shifted), carry(state), strict=True):
        np.testing.assert_allclose(found, jnp.roll(plain, (6, 10), (0, 1)), atol=1e-6)


def test_resize_refuses():
    for bad in (0, -1, 2.5):
        with pytest.raises(ValueError) as caught:
            resize(jnp.zeros((4, 4, 3)), bad, 4)
        assert "height" in str(caught.value) and repr(bad) in str(caught.value)
    with pytest.raises(ValueError) as caught:
        resize(jnp.zeros((4, 4)), 2, 2)
    assert "(4, 4)" in str(caught.value)


def test_shrink_never_enlarges():
    image = jnp.asarray(smooth(20, 30))
    assert shrink(image, 1.0) is image and shrink(image, 3.0) is image
    np.testing.assert_array_equal(shrink(image, 0.5), resize(image, 10, 15))
    assert shrink(image, 1e-6).shape == (1, 1, 3)


def noise(seed, height, width):
    return uniform(height, width, 3, seed=seed, low=0.3, high=0.6)


# --- the optimiser's state -----------------------------------------------------------------------


@pytest.mark.parametrize("chained", [False, True])
def test_moments_of_adam_are_carried(chained):
    adam = optax.adam(0.1)
    optimizer = optax.chain(adam, optax.clip(1.0)) if chained else adam
    small, large = jnp.asarray(smooth(10, 12)), jnp.asarray(smooth(20, 24))
    _, state = optimizer.update(small, optimizer.init(small))
    _, state = optimizer.update(0.5 - small, state)
    fresh = optimizer.init(large)
    carried = carry_moments(state, fresh, large.shape)
    assert jax.tree.structure(carried) == jax.tree.structure(fresh)
    old, new = (s[0][0] if chained else s[0] for s in (state, carried))
    assert int(new.count) == 2
    assert new.mu.shape == new.nu.shape == large.shape
    assert float(new.nu.min()) >= 0
    for a, b in ((old.mu, new.mu), (old.nu, new.nu)):
        np.testing.assert_allclose(a.mean(), b.mean(), rtol=0.05)
        np.testing.assert_allclose(a[5, 6], b[10:12, 12:14].mean((0, 1)), atol=0.02)


def test_other_states_start_fresh():
    optimizer = optax.sgd(0.1, momentum=0.9)
    _, state = optimizer.update(jnp.ones((2, 2, 3)), optimizer.init(jnp.ones((2, 2, 3))))
    fresh = optimizer.init(jnp.ones((4, 4, 3)))
    carried = carry_moments(state, fresh, (4, 4, 3))
    jax.tree.map(np.testing.assert_array_equal, carried, fresh)
