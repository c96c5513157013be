"""A part of the content is kept as it is."""

from dataclasses import replace
from pathlib import Path

import helpers
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from shallow import SHORT, WEIGHTS, check_lane

import jaxnst
from jaxnst import Picture, preset, protect, style_transfer


def changes(image, content, mask):
    """The mean change inside a mask and outside."""
    change = np.abs(np.asarray(image) - np.asarray(content)).mean(axis=2)
    return change[mask > 0].mean(), change[mask == 0].mean()


@pytest.fixture
def mask(small):
    return np.zeros(small.shape[:2], np.float32) + np.outer(np.arange(36) < 20, np.arange(48) > 28)


def protected(content, style, mask, params, **options):
    options = {"weights": WEIGHTS, "config": SHORT} | options
    return protect(content, style, mask=mask, params=params, **options)


def test_outside_the_loss_is_as_before_and_inside_pixels_count(small, paint, mask, params):
    change = np.where(mask[:, :, None] > 0, 0.1, 0.0).astype(np.float32)
    kept = protected(small, paint, mask, params, strength=3.0)
    losses = []
    for objective, weights, content in [
        (SHORT.objective, WEIGHTS, small),
        (kept.config.objective, kept.weights, kept.content),
    ]:
        sources = {"content": content, "style": Picture(paint, regions=jnp.ones((1, 40, 32)))}
        targets = jaxnst.compute_targets(sources, params, objective=objective)
        losses.append(
            jaxnst.perceptual_loss(
                small + change, params, targets, weights, objective=objective, regions=kept.regions
            )
        )
    (_, plain), (_, terms) = losses
    for name, value in plain.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-5, err_msg=name)
    sources = {"content": small, "style": paint}
    targets = jaxnst.compute_targets(sources, params, objective=SHORT.objective)
    first, _ = jaxnst.perceptual_loss(
        small, params, targets, WEIGHTS, objective=SHORT.objective, regions=kept.regions
    )
    np.testing.assert_allclose(terms["kept"], 3 * first * 0.01, rtol=1e-3)


def test_masks_multiply_and_a_blend_remains_one(small, paint, other, mask, params):
    left = np.zeros((2, *small.shape[:2]), np.float32)
    left[0, :, :24], left[1, :, 24:] = 1, 1
    kept = protected(small, [paint, other], mask, params, regions=left)
    np.testing.assert_array_equal(kept.regions, left * (1 - mask))
    blend = protected(small, [Picture(paint, share=2.0), other], mask, params)
    assert blend.regions.shape == (1, 36, 48)
    for arguments in (kept, blend):
        config = replace(arguments.config, num_steps=1)
        result = style_transfer(**(arguments._asdict() | {"config": config}), params=params)
        assert np.isfinite(result.history["loss"]).all()


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda m: m[:-1], "must have the shape"),
        (lambda m: 0 * m, "protects nothing"),
        (lambda m: 0 * m + 1, "leaves nothing for the style"),
    ],
)
def test_masks_that_do_not_fit_are_refused(small, paint, mask, params, change, part):
    with pytest.raises(ValueError, match=part):
        protected(small, paint, change(mask), params)


def test_a_sweep_keeps_it_in_each_lane_as_a_transfer_does(small, paint, mask, params):
    lanes = protected(small, paint, mask, params, weights=WEIGHTS.replace(style=[0.1, 10.0]))
    results = jaxnst.sweep(**lanes._asdict(), params=params)
    assert lanes.weights.scales["kept"].shape == (2,)
    for style, result in zip((0.1, 10.0), results, strict=True):
        one = protected(small, paint, mask, params, weights=WEIGHTS.replace(style=style))
        alone = style_transfer(**one._asdict(), params=params)
        check_lane(result, alone)
    strengths = protected(small, paint, mask, params, strength=np.array([1.0, 100.0]))
    weak, strong = strengths.weights.scales["kept"]
    assert strong == pytest.approx(100 * weak) and weak > 0


@pytest.mark.parametrize(
    ("change", "strength"),
    [({"style": [1.0, 2.0], "tv": [0.0] * 3}, 1.0), ({"style": [1.0, 2.0]}, np.ones(3))],
)
def test_lanes_of_different_numbers_are_refused(small, paint, mask, params, change, strength):
    with pytest.raises(ValueError, match=r"one for each lane, not of the shapes \(2,\), \(3,\)"):
        weights = WEIGHTS.replace(**change)
        protected(small, paint, mask, params, weights=weights, strength=strength)


@pytest.mark.slow
def test_the_default_preset_changes_a_face_by_less_than_a_fifth(tmp_path, content):
    mask = np.zeros(content.shape[:2], np.uint8)
    mask[14:48, 24:70] = 255
    demo, face = Path(jaxnst.__file__).parent / "demo", tmp_path / "face.png"
    Image.fromarray(mask).save(face)
    words = [demo / "content.jpg", demo / "style.jpg", "-o", tmp_path / "out.png"]
    options = ["--size", 96, "--num-steps", 12, "--content-mask", face]
    assert helpers.call("transfer", *words, *options).status == 0
    inside, outside = changes(jaxnst.load_image(tmp_path / "out.png"), content, mask)
    assert outside > 0.05 and inside < outside / 5, "the criterion of a protected region"
    assert preset("default").config.min_size == 128  # so 96 pixels are one scale
