"""Sweeps against the same transfers one by one, at a size and length of use."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import double_precision
from shallow import check_lane, pick

import jaxnst
from jaxnst import Adam, Lbfgs, load_image, preset, style_transfer, sweep

DEEP, DEEP_WEIGHTS = preset("pastiche")
side_by_side = partial(sweep, lane_batch=8)  # CPUs do so only if asked


def at_128(optimizer, **objective):
    """A config, eight style weights, and the demo's pictures."""
    steps, optimizer = (50, Adam()) if optimizer == "adam" else (30, Lbfgs(memory=20))
    objective = replace(DEEP.objective, **objective)
    config = replace(DEEP, objective=objective, optimizer=optimizer, num_steps=steps)
    demo = Path(jaxnst.__file__).parent / "demo"
    pictures = [load_image(demo / f"{name}.jpg", size=128) for name in ("content", "style")]
    return config, DEEP_WEIGHTS.replace(style=np.geomspace(0.1, 1e3, 8)), pictures


@pytest.mark.slow  # minutes on two cores
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_eight_style_weights_at_128_in_float64(params, optimizer):
    config, weights, pictures = at_128(optimizer, dtype="float64")
    with double_precision():
        content, style, params = jax.tree.map(
            lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), (*pictures, params)
        )
        shared = {"params": params, "config": config}
        results = side_by_side(content, style, weights=weights, **shared)
        for i in (0, 7):
            alone = style_transfer(content, style, weights=pick(weights, i), **shared)
            assert alone.image.dtype == jnp.float64
            check_lane(results[i], alone, loss=1e-3 if optimizer == "adam" else 1e-2)


@pytest.mark.slow  # minutes on two cores
@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_eight_style_weights_at_128_in_float32(params, optimizer):
    """One at a time, lanes have the bits of single runs. Side by side they round otherwise, and a
    run depends on the last bits of its start; they are to differ no more than by those."""
    config, weights, (content, style) = at_128(optimizer)
    shared = {"params": params, "config": config}
    in_turn = sweep(content, style, weights=weights, **shared)
    results = side_by_side(content, style, weights=weights, **shared)
    rounding = 6e-8 * jax.random.rademacher(jax.random.key(0), content.shape)
    for i in (0, 7):
        alone, moved = (
            style_transfer(content, style, weights=pick(weights, i), initial_image=start, **shared)
            for start in (content, content + rounding)
        )
        np.testing.assert_array_equal(in_turn[i].image, alone.image)
        np.testing.assert_array_equal(in_turn[i].history["loss"], alone.history["loss"])
        image, floor = (
            float(jnp.abs(other.image - alone.image).mean()) for other in (results[i], moved)
        )
        assert floor > 1e-4  # so no two runs in float32 can be held to that
        assert image < 3 * floor
        loss, floor = (
            np.abs(other.history["loss"] / alone.history["loss"] - 1).max()
            for other in (results[i], moved)
        )
        assert loss < (1e-3 if optimizer == "adam" else 3 * floor)
