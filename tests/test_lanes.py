"""Groups of lanes: their programs, and how many fit into memory."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from shallow import COMPILED, OBJECTIVE, WEIGHTS

from jaxnst import Adam, TransferConfig, lanes, sweep
from jaxnst.sweep import split_lanes

CONFIG = TransferConfig(OBJECTIVE, optimizer=Adam(), num_steps=2)
SCALES = np.array([0.1, 1, 10])


@pytest.fixture(scope="module")
def shared(small, paint, params):
    # Of a size of their own, so that other files of tests have compiled none of it.
    return {"content": small[:34], "style": paint, "params": params}


def test_all_lanes_and_groups_share_one_program(shared):
    def compiled(weights=WEIGHTS, config=CONFIG, lane_batch=8):
        before = len(COMPILED)
        sweep(**shared, weights=weights, config=config, lane_batch=lane_batch)
        return COMPILED[before:]

    compiled(WEIGHTS.replace(style=SCALES))
    assert compiled(WEIGHTS.replace(style=SCALES * 2)) == []
    assert compiled(WEIGHTS.replace(style=[1, 2.5, 4])) == []
    assert compiled(WEIGHTS.replace(tv=SCALES)) == []
    rates = replace(CONFIG, optimizer=Adam(learning_rate=0.01 * np.arange(1, 4)))
    assert compiled(config=rates) == []
    assert compiled(WEIGHTS.replace(style=np.arange(6)), lane_batch=3) == []


def test_lanes_one_after_another_share_a_program_at_each_scale(shared):
    config = replace(CONFIG, min_size=24)
    before = len(COMPILED)
    sweep(**shared, weights=WEIGHTS.replace(style=SCALES[:1]), config=config)
    first = len(COMPILED)
    sweep(**shared, weights=WEIGHTS.replace(style=SCALES), config=config)
    assert first > before and COMPILED[first:] == []


def test_groups_are_as_all_at_once(shared):
    weights = WEIGHTS.replace(style=np.geomspace(0.1, 10, 5))
    pick, axes, count = split_lanes(**shared, weights=weights, config=CONFIG)
    assert count == 5 and axes.weights == 0 and axes.content is None
    run = list(lanes.run_lanes(pick, count, CONFIG, axes=axes, lane_batch=2))
    assert [which for which, _ in run] == [range(0, 2), range(2, 4), range(4, 5)]
    assert [len(results) for _, results in run] == [2, 2, 1]
    whole = sweep(**shared, weights=weights, config=CONFIG, lane_batch=8)
    parts = sweep(**shared, weights=weights, config=CONFIG, lane_batch=2)
    images = np.concatenate([results.image for _, results in run])
    np.testing.assert_array_equal(parts.image, images)
    np.testing.assert_allclose(parts.image, whole.image, atol=1e-3)
    np.testing.assert_allclose(parts.history["loss"], whole.history["loss"], rtol=1e-3)


def test_as_many_lanes_as_fit_into_memory(shared, monkeypatch):
    weights = WEIGHTS.replace(style=np.geomspace(0.1, 10, 6))
    pick, axes, _ = split_lanes(**shared, weights=weights, config=CONFIG)
    needs, memory_of = [], lanes.memory_of

    def spied(*args):
        needs.append(memory_of(*args))
        return needs[-1]

    def fit_within(share):
        monkeypatch.setattr(lanes, "free_memory", lambda _: share * needs[-1])
        return lanes._lanes_that_fit(pick(0), axes, 6, CONFIG, jax.local_devices()[:1])

    monkeypatch.setattr(lanes, "memory_of", spied)
    assert [fit_within(share) for share in (1.0, 0.5, 0.01)] == [6, 3, 1]
    # The features of six lanes after relu1_1, forward, are the least that is needed.
    assert needs[0] > 6 * 34 * 48 * 64 * 4
