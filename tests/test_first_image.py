"""The image that a transfer starts from, and the size of strokes."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shallow import PYRAMID, SHORT, check_result

import jaxnst
from jaxnst import Picture, noise_image
from jaxnst.first_image import first_image
from jaxnst.pyramid import shrink

KEY = jax.random.key(3)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0])
def test_noise_has_the_spectrum_that_was_asked_for(exponent):
    """The slope of the radial power spectrum on logarithmic axes is -2 times the exponent."""
    noise = np.asarray(jax.jit(partial(noise_image, shape=(96, 128), exponent=exponent))(KEY))
    assert noise.shape == (96, 128, 3) and noise.dtype == np.float32
    assert noise.min() >= 0 and noise.max() <= 1
    power = np.mean(np.abs(np.fft.fft2(noise, axes=(0, 1))) ** 2, axis=2)
    radius = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(128), indexing="ij"))
    inside = (radius > 0.02) & (radius < 0.4)
    slope = np.polyfit(np.log(radius[inside]), np.log(power[inside]), 1)[0]
    assert abs(slope + 2 * exponent) < 0.25
    assert abs(noise.mean() - 0.5) < 0.02 and abs(noise.std() - 12**-0.5) < 0.03


def start(config, small, styles, **options):
    options = {"coarsest": (24, 36)} | options
    return np.asarray(first_image(small, styles, config, **options))


def test_each_kind_of_start(small, paint, other):
    styles = [Picture(paint, share=1.0), Picture(other, share=3.0)]
    mean = start(replace(SHORT, init="mean"), small, styles)
    wanted = 0.25 * np.mean(paint, (0, 1)) + 0.75 * np.mean(other, (0, 1))
    np.testing.assert_allclose(mean, np.broadcast_to(wanted, small.shape), rtol=1e-5)
    # A style of other proportions is cropped around its centre, not squeezed.
    height, width, _ = small.shape
    wide = jnp.concatenate([jnp.zeros((height, width, 3)), small, jnp.ones((height, width, 3))], 1)
    image = start(replace(SHORT, init="style"), small, [Picture(wide)])
    np.testing.assert_allclose(image, small, atol=1e-6)


def test_a_start_that_tiles_is_resized_around_its_edges(small):
    tiles = replace(SHORT, objective=replace(SHORT.objective, padding="circular"), noise_share=0.5)
    noise = noise_image(KEY, (18, 24))
    found = start(tiles, small, [], coarsest=(18, 24), key=KEY)
    image = jaxnst.resize(small, 18, 24, wrap=True)
    np.testing.assert_allclose(found, 0.5 * image + 0.5 * noise, atol=1e-6)
    assert np.abs(image - jaxnst.resize(small, 18, 24)).max() > 0.01


def test_noise_is_blended_into_a_start_at_the_coarsest_scale(small, paint):
    image = jaxnst.resize(1 - small, 24, 36)
    noise = noise_image(jax.random.key(7), (24, 36), exponent=1.0)
    for share in (0.25, 1.0):
        config = replace(SHORT, noise_share=share, noise_exponent=1.0, seed=7)
        found = start(config, small, [Picture(paint)], initial_image=1 - small)
        np.testing.assert_allclose(found, (1 - share) * image + share * noise, atol=1e-6)
    config = replace(SHORT, noise_share=0.5)
    one, same, another = (
        start(config, small, [Picture(paint)], key=jax.random.key(seed)) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - another).max() > 0.1


@pytest.mark.parametrize(
    "config", [{"init": "style"}, {"init": "mean"}, {"noise_share": 0.3}], ids=str
)
def test_transfers_begin_there(transfer, small, first_loss, paint, config):
    config = replace(SHORT, **config)
    result = transfer(config)
    check_result(result, small.shape, 4)
    image = first_image(small, [Picture(paint)], config, coarsest=small.shape[:2])
    assert result.history["loss"][0] == first_loss(image)


def test_the_scale_of_a_style_is_the_size_of_its_picture(transfer, small, paint, first_loss):
    long = max(small.shape[:2])
    for scale, ratio in ((0.5, 0.5 * long / max(paint.shape[:2])), (9.0, 1.0)):
        found = transfer(replace(SHORT, style_scale=scale)).history["loss"][0]
        assert found == first_loss(style=shrink(paint, ratio))


def test_each_style_may_have_a_scale_of_its_own(transfer, paint, other, small, first_loss):
    long = max(small.shape[:2])
    sized = [
        shrink(image, scale * long / max(image.shape[:2]))
        for image, scale in ((paint, 0.5), (other, 0.75))
    ]
    config = replace(SHORT, style_scale=(0.5, 0.75))
    found = transfer(config, style=[paint, other]).history["loss"][0]
    assert found == first_loss(style=sized)
    with pytest.raises(ValueError, match="style_scale has 2 numbers, but there are 1 styles"):
        transfer(config)


@pytest.mark.slow
def test_strokes_keep_their_scale_from_coarse_to_fine(transfer, small, paint):
    """At each scale the style has half of the picture's size, as if it had been given so."""
    half = shrink(paint, 0.5 * max(small.shape[:2]) / max(paint.shape[:2]))
    given = transfer(PYRAMID, style=half).history["loss"]
    np.testing.assert_allclose(
        transfer(replace(PYRAMID, style_scale=0.5)).history["loss"], given, rtol=0.05
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"init": "grey"}, "init must be"),
        ({"noise_share": 1.5}, "noise_share must be a number from 0 to 1, not 1.5"),
        ({"noise_exponent": float("nan")}, "noise_exponent must be a finite number"),
        ({"style_scale": 0.0}, "style_scale must be above 0, not 0.0"),
        ({"style_scale": (1.0, -1.0)}, "style_scale must be above 0, not -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        replace(SHORT, **change)
