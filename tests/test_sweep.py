"""Sweeps against the same transfers one by one, with the real network."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from shallow import OBJECTIVE, WEIGHTS, check_lane, pick

from jaxnst import (
    Adam,
    Lbfgs,
    Picture,
    Progress,
    Status,
    SweepProgress,
    SweepResult,
    TransferConfig,
    compute_targets,
    init,
    loss_and_grad,
    outcome,
    preset,
    step,
    style_transfer,
    sweep,
    weight_grid,
)

DEEP, DEEP_WEIGHTS = preset("pastiche")
DEEP = replace(DEEP, num_steps=6, optimizer=Lbfgs(memory=5))
LBFGS = TransferConfig(OBJECTIVE, optimizer=Lbfgs(memory=5), num_steps=6)
ADAM = replace(LBFGS, optimizer=Adam())
NOISE = replace(ADAM, init="noise", num_steps=3)
STYLE_WEIGHTS = np.array([1.0, 30.0, 1000.0], np.float32)
THREE = WEIGHTS.replace(style=STYLE_WEIGHTS)

side_by_side = partial(sweep, lane_batch=8)  # which CPUs do only if asked to


@pytest.fixture(scope="module")
def shared(small, paint, params):
    """Arguments that lanes share."""
    given = {"content": small, "style": paint, "params": params}
    return given | {"weights": WEIGHTS, "config": ADAM}


# --- lanes are what separate runs are ------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "weights"),
    [
        (ADAM, WEIGHTS),
        (LBFGS, WEIGHTS),
        pytest.param(DEEP, DEEP_WEIGHTS, marks=pytest.mark.slow),  # a large program
    ],
    ids=["adam", "lbfgs", "deep"],
)
def test_style_weights(shared, config, weights):
    given = shared | {"config": config}
    weights = weights.replace(style=STYLE_WEIGHTS)
    results = side_by_side(**given | {"weights": weights})
    assert isinstance(results, SweepResult) and len(results) == 3
    assert results.image.shape == (3, 36, 48, 3) and results.image.dtype == np.float32
    assert results.image.min() >= 0 and results.image.max() <= 1
    assert results.status.tolist() == [Status.OK] * 3
    assert {rows.shape for rows in results.history.values()} == {(3, 6)}
    for i, together in enumerate(results):
        check_lane(together, style_transfer(**given | {"weights": pick(weights, i)}))
    assert len(results[1:]) == 2
    np.testing.assert_array_equal(results[-1].image, results[2].image)


LAYERS = WEIGHTS.replace_layers(
    style={"relu1_1": np.array([2e-4, 4e-4]), "pool1": np.array([6e-5, 12e-5])}
)
RATES = replace(ADAM, optimizer=Adam(learning_rate=np.array([0.01, 0.03])), num_steps=4)
DECAYS = replace(RATES, optimizer=Adam(b1=np.array([0.5, 0.9]), average=np.array([0.0, 0.9])))
LENGTHS = replace(LBFGS, optimizer=Lbfgs(memory=5, first_step=np.array([0.003, 0.01])))


LEFT = jnp.zeros((40, 32)).at[:20].set(1)
REGIONS = jnp.stack([jnp.eye(36, 48), 1 - jnp.eye(36, 48)])
KEYS = jax.random.split(jax.random.key(7), 2)
SHARES = np.array([[1.0, 3.0], [3.0, 1.0]])
# Functions of two contents, two styles of one size and one of another: the arguments of one
# lane, or of both where `i` is a slice.
AXES = {
    "layers": lambda i, c, s, other: {"weights": pick(LAYERS, i)},
    "tv": lambda i, c, s, other: {"weights": WEIGHTS.replace(tv=np.array([0.0, 1e5])[i])},
    "content": lambda i, c, s, other: {"content": c[i]},
    "content picture": lambda i, c, s, other: {"content": Picture(c[i], REGIONS[1])},
    "style": lambda i, c, s, other: {"style": s[i]},
    "one of two styles": lambda i, c, s, other: {"style": [other, s[i]]},
    "blend": lambda i, c, s, other: {"style": [s[0], other], "blend": SHARES[i]},
    "style picture": lambda i, c, s, other: {
        "style": [Picture(s[i], LEFT), Picture(s[0], LEFT)],
        "blend": [2, 1],
    },
    "style in regions": lambda i, c, s, other: {"style": [s[i], other], "regions": REGIONS},
    "keys": lambda i, c, s, other: {"key": KEYS[i], "config": NOISE},
    "one key": lambda i, c, s, other: {"key": KEYS[0], "config": NOISE, "content": c[i]},
    "first image": lambda i, c, s, other: {"initial_image": c[i]},
    "rates": lambda i, c, s, other: {"config": lane_of_config(RATES, i)},
    "decays": lambda i, c, s, other: {"config": lane_of_config(DECAYS, i)},
    "lengths": lambda i, c, s, other: {"config": lane_of_config(LENGTHS, i)},
}


def lane_of_config(config, lane):
    return replace(config, optimizer=pick(config.optimizer, lane))


@pytest.mark.parametrize("axis", AXES)
def test_lanes_over_anything(shared, other, axis):
    given = shared | {"config": replace(ADAM, num_steps=3)}
    content, style = shared["content"], shared["style"]
    pictures = jnp.stack([content, content[::-1]]), jnp.stack([style, 1 - style]), other
    results = side_by_side(**given | AXES[axis](np.s_[:], *pictures))
    assert len(results) == 2
    losses = results.history["loss"]
    assert not np.allclose(*losses, rtol=1e-3) or not np.allclose(*results.image, atol=1e-3)
    for i in range(2):
        check_lane(results[i], style_transfer(**given | AXES[axis](i, *pictures)))


def test_coarse_to_fine(shared):
    config = replace(ADAM, num_steps=(5, 3), min_size=24, optimizer=Adam(average=0.9))
    given = shared | {"config": config}
    results = side_by_side(**given | {"weights": THREE})
    np.testing.assert_array_equal(results.history["size"], [[24] * 5 + [48] * 3] * 3)
    for i in range(3):
        check_lane(results[i], style_transfer(**given | {"weights": pick(THREE, i)}))


def test_a_lost_lane_leaves_the_others_alone(shared):
    given = shared | {"config": replace(ADAM, num_steps=3, min_size=24)}
    weights = WEIGHTS.replace(style=np.array([10, np.nan, 100], np.float32))
    results = side_by_side(**given | {"weights": weights})
    assert results.status.tolist() == [Status.OK, Status.NON_FINITE, Status.OK]
    assert np.isfinite(results.image).all()
    assert len(results[1].history["loss"]) == 1 and len(results[2].history["loss"]) == 6
    for i in (0, 2):
        check_lane(results[i], style_transfer(**given | {"weights": pick(weights, i)}))


def test_a_vmap_of_ones_own_does_the_same(shared):
    content, params = shared["content"], shared["params"]
    sources = {"content": content, "style": shared["style"]}
    targets = compute_targets(sources, params, objective=OBJECTIVE)
    in_axes = jax.tree.map(lambda leaf: 0 if np.ndim(leaf) else None, THREE)

    def value_and_grad(image, weights):
        return loss_and_grad(image, params, targets, weights, objective=OBJECTIVE)

    def transfer(weights):
        def body(state, _):
            return step(value_and_grad, state, weights, optimizer=LBFGS.optimizer, limit=6)

        state = init(value_and_grad, content, weights, optimizer=LBFGS.optimizer)
        return jax.lax.scan(body, state, None, length=6)

    states, infos = jax.jit(jax.vmap(transfer, (in_axes,)))(THREE)
    images = jax.vmap(outcome)(states)
    results = side_by_side(**shared | {"weights": THREE, "config": LBFGS})
    for i in range(3):
        np.testing.assert_allclose(infos.loss[i], results[i].history["loss"], rtol=1e-3)
        assert np.abs(np.clip(images[i], 0, 1) - results.image[i]).mean() < 1e-4


# --- one after another, and while it runs --------------------------------------------------------


@pytest.mark.parametrize("config", [ADAM, LBFGS], ids=["adam", "lbfgs"])
def test_by_default_cpus_run_one_lane_after_another_to_the_same_bits(shared, config):
    given, records = shared | {"config": config}, []
    results = sweep(**given | {"weights": THREE}, callback=records.append)
    for i, together in enumerate(results):
        alone = style_transfer(**given | {"weights": pick(THREE, i)})
        check_lane(together, alone)
        np.testing.assert_array_equal(together.image, alone.image)
        np.testing.assert_array_equal(together.history["loss"], alone.history["loss"])
    assert {record.lanes for record in records} == {range(i, i + 1) for i in range(3)}
    last = records[-1].progress
    assert last.x.shape == (1, 36, 48, 3) and last.loss.shape == (1,)
    assert last.history["loss"].shape == (1, 6)


def test_the_callback_gets_records_of_lanes(shared):
    records: list[SweepProgress] = []
    given = shared | {"weights": THREE, "config": replace(ADAM, num_steps=3)}
    sweep(**given, lane_batch=2, callback=records.append)
    found = {(record.lanes, record.num_lanes) for record in records}
    assert found == {(range(0, 2), 3), (range(2, 3), 3)}
    for lanes, _, progress in records:
        assert isinstance(progress, Progress) and progress.num_steps == 3
        assert progress.loss.shape == progress.terms["style"].shape == (len(lanes),)
        assert progress.status.shape == progress.done.shape == (len(lanes),)
        assert progress.x.shape == (len(lanes), 36, 48, 3)
        assert {len(rows) for rows in progress.history.values()} == {len(lanes)}
    assert records[-1].progress.evaluation == 3


@pytest.mark.parametrize("how", ["callback", "Ctrl-C"])
def test_an_interrupted_sweep_keeps_what_there_is(shared, how):
    def stop(record):
        if record.lanes.start == 1 and how == "Ctrl-C":
            raise KeyboardInterrupt
        return record.lanes.start == 1

    config = replace(ADAM, num_steps=4, min_size=24)
    given = shared | {"weights": THREE, "config": config}
    results = sweep(**given, lane_batch=1, callback=stop)
    assert results.status.tolist() == [Status.OK, Status.INTERRUPTED, Status.INTERRUPTED]
    lengths = [len(result.history["loss"]) for result in results]
    assert lengths[0] == 8 and 0 < lengths[1] < 8 and lengths[2] == 0
    assert results.image.shape == (3, 36, 48, 3)
    assert np.isfinite(results.image).all()
    assert results.history["evaluation"].dtype.kind == "i"


# --- refusals and grids --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({}, ValueError, "nothing has a leading axis"),
        ({"weights": WEIGHTS.replace(style=np.ones((2, 2)))}, ValueError, r"style.*\(2, 2\)"),
        ({"weights": WEIGHTS.replace(style=np.ones(0))}, ValueError, "one or more"),
        (
            {"weights": WEIGHTS.replace(style=np.ones(2), tv=np.ones(3))},
            ValueError,
            "style.* has 2, .*tv.* has 3",
        ),
        (
            {"config": RATES, "weights": WEIGHTS.replace(style=np.ones(3))},
            ValueError,
            "style.* has 3, .*learning_rate has 2",
        ),
        ({"content": np.zeros((2, 36, 48, 4), np.float32)}, ValueError, "content"),
        ({"content": np.zeros((2, 36, 48, 3), np.uint8)}, TypeError, "content"),
        ({"style": np.zeros((48, 3), np.float32), "key": KEYS}, ValueError, "style"),
        ({"style": [], "key": KEYS}, ValueError, "style must be one or more"),
        ({"blend": np.ones((2, 2))}, ValueError, "blend has 2 shares"),
        ({"regions": np.ones((2, 5, 5)), "key": KEYS}, ValueError, "regions"),
        ({"lane_batch": 0, "key": KEYS}, ValueError, "lane_batch"),
        ({"lane_batch": True, "key": KEYS}, ValueError, "lane_batch"),
        ({"devices": [], "key": KEYS}, ValueError, "device"),
    ],
)
def test_refusals(shared, change, error, message):
    with pytest.raises(error, match=message):
        sweep(**shared | change)


def test_weight_grid():
    weights = weight_grid(WEIGHTS, style=[1, 10], tv=[0, 0.5, 1])
    np.testing.assert_array_equal(weights.scales["style"], [1, 1, 1, 10, 10, 10])
    np.testing.assert_array_equal(weights.scales["tv"], [0, 0.5, 1, 0, 0.5, 1])
    assert weights.scales["content"] == 10 and weights.layers == WEIGHTS.layers
    with pytest.raises(TypeError, match="no term 'relu1_1'"):
        weight_grid(WEIGHTS, relu1_1=[1])
    for values in ({}, {"style": []}):
        with pytest.raises(ValueError, match="one or more values"):
            weight_grid(WEIGHTS, **values)
