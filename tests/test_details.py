"""What a finer scale starts with, against a search by loops in NumPy."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import uniform

import jaxnst.details
from jaxnst.details import refine
from jaxnst.pyramid import resize, shrink
from jaxnst.sources import Picture

FINE = (20, 28)


def noise(seed, height, width):
    return uniform(height, width, 3, seed=seed, low=0.3, high=0.6)


def naive_details(image, styles, allowed=lambda style, y, x, v, u: True, wrap=False):
    """Every 8×8 patch, 4 apart and over the borders, takes the details of the nearest one."""
    mode = "wrap" if wrap else "edge"
    height, width = image.shape[:2]
    padded = np.pad(np.asarray(image, np.float64), [(8, 12), (8, 12), (0, 0)], mode=mode)
    across = np.sin(np.pi * (np.arange(8) + 0.5) / 8) ** 2
    window = np.outer(across, across)
    total, power = np.zeros_like(padded), np.zeros(padded.shape[:2])
    known = []
    for index, style in enumerate(styles):
        ratio = 0.5
        blurred = np.asarray(resize(shrink(style, ratio), *style.shape[:2]), np.float64)
        details = np.asarray(style, np.float64) - blurred
        for v in range(0, style.shape[0] - 7, 4):
            for u in range(0, style.shape[1] - 7, 4):
                at = np.s_[v : v + 8, u : u + 8]
                known.append((index, v, u, blurred[at], details[at]))
    for y in range(0, padded.shape[0] - 7, 4):
        for x in range(0, padded.shape[1] - 7, 4):
            at = np.s_[y : y + 8, x : x + 8]
            best = np.inf, None
            for index, v, u, look, paint in known:
                if allowed(index, y - 4, x - 4, v + 4, u + 4):
                    change = padded[at] - look
                    distance = np.sum((change - change.mean() / 2) ** 2)
                    best = min(best, (distance, id(paint), paint), key=lambda found: found[0])
            total[at] += best[2] * window[:, :, None]
            power[at] += window**2
    return (total / np.sqrt(np.maximum(power, 1e-9))[:, :, None])[8 : 8 + height, 8 : 8 + width]


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_each_patch_takes_the_details_of_the_style_that_looks_most_like_it(count, wrap):
    image, styles = noise(0, 10, 14), [noise(1, 24, 16), noise(2, 16, 30)][:count]
    found = refine(image, [Picture(style) for style in styles], FINE, wrap=wrap)
    enlarged = resize(image, *FINE, wrap=wrap)
    wanted = np.clip(enlarged + naive_details(enlarged, styles, wrap=wrap), 0, 1)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    half = refine(image, [Picture(style) for style in styles], FINE, details=0.5, wrap=wrap)
    np.testing.assert_allclose(half, (enlarged + found) / 2, atol=1e-5)


def test_regions_take_the_details_of_their_own_regions():
    image, styles = noise(0, 10, 14), [noise(1, 24, 16), noise(2, 16, 32)]
    left = jnp.zeros(FINE).at[:, :14].set(1)
    upper = jnp.zeros((16, 32)).at[:8].set(1)
    pictures = [
        Picture(styles[0], jnp.ones((2, 24, 16)), jnp.array([1.0, 0.0])),
        Picture(styles[1], jnp.stack([upper, 1 - upper])),
    ]
    found = refine(image, pictures, FINE, regions=jnp.stack([left, 1 - left]))

    def allowed(style, y, x, v, u):
        in_left = x < 14
        return in_left if style == 0 else in_left == (v < 8)

    enlarged = resize(image, *FINE)
    wanted = np.clip(enlarged + naive_details(enlarged, styles, allowed), 0, 1)
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_nothing_is_painted_in_where_no_region_counts():
    image, kept = noise(0, 10, 14), jnp.zeros((1, *FINE)).at[:, :, :14].set(1)
    found = refine(image, [Picture(noise(1, 24, 16))], FINE, regions=1 - kept)
    enlarged = resize(image, *FINE)
    np.testing.assert_array_equal(found[:, :14], enlarged[:, :14])
    assert float(jnp.abs(found - enlarged)[:, 14:].max()) > 0.01


def test_a_style_without_a_share_gives_no_details():
    image, styles = noise(0, 10, 14), [noise(1, 24, 16), noise(2, 16, 30)]
    both = [Picture(styles[0], share=0.0), Picture(styles[1], share=2.0)]
    alone = refine(image, [Picture(styles[1])], FINE)
    np.testing.assert_allclose(refine(image, both, FINE), alone, atol=1e-6)


def test_a_blurred_picture_gets_its_own_details_back():
    style = jnp.asarray(
        np.kron(np.random.default_rng(0).uniform(size=(8, 8, 3)), np.ones((4, 4, 1)))
    )
    style = style.astype(jnp.float32)
    blurred = resize(style, 16, 16)
    lost = float(jnp.abs(style - resize(blurred, 32, 32)).mean())
    left = float(jnp.abs(style - refine(blurred, [Picture(style)], (32, 32))).mean())
    assert left < 0.5 * lost


def test_nothing_is_added_without_styles_details_or_a_finer_scale():
    image, style = noise(0, 10, 14), Picture(noise(1, 24, 16))
    for found in (refine(image, [], FINE), refine(image, [style], FINE, details=0)):
        np.testing.assert_array_equal(found, resize(image, *FINE))
    np.testing.assert_array_equal(refine(image, [style], (10, 14)), resize(image, 10, 14))
    flat = Picture(jnp.full((24, 16, 3), 0.4))
    np.testing.assert_allclose(refine(image, [flat], FINE), resize(image, *FINE), atol=1e-6)


@pytest.mark.slow
def test_styles_smaller_than_a_patch_serve_too():
    image = noise(0, 10, 14)
    for shape in [(1, 1), (2, 5), (7, 30)]:
        refined = refine(image, [Picture(noise(1, *shape))], FINE)
        assert refined.shape == (*FINE, 3) and np.isfinite(refined).all()


def test_large_styles_are_sampled(monkeypatch):
    image, style = noise(0, 10, 14), noise(1, 64, 64)
    whole = refine(image, [Picture(style)], FINE)
    monkeypatch.setattr(jaxnst.details, "MOST_PATCHES", 20)
    sampled = refine(image, [Picture(style)], FINE)
    strength = [float(jnp.std(x - resize(image, *FINE))) for x in (sampled, whole)]
    assert strength[0] == pytest.approx(strength[1], rel=0.2)
    assert float(jnp.abs(sampled - whole).max()) > 0.01


def test_refine_stays_in_range_under_jit_vmap_and_grad():
    images, style = noise(0, 3 * 10, 14).reshape(3, 10, 14, 3), Picture(noise(1, 24, 16))
    plain = partial(refine, styles=[style], shape=FINE)
    lanes = jax.jit(jax.vmap(plain))(images)
    for lane, image in zip(lanes, images, strict=True):
        np.testing.assert_allclose(lane, plain(image), atol=1e-5)
    # Each pixel of the image is shared out whole; the choice of patches has no derivative.
    grad = jax.grad(lambda image: plain(image).sum())(images[0])
    np.testing.assert_allclose(grad.mean(), 4, rtol=1e-3)
    bright = refine(jnp.ones((10, 14, 3)), [style], FINE)
    assert float(bright.max()) == 1 and 0 <= float(bright.min()) < 1


def test_refine_refuses():
    with pytest.raises(ValueError, match="height"):
        refine(noise(0, 4, 4), [], (0, 8))
