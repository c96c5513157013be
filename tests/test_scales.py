"""The scales of a transfer: their schedule, each as pure functions, and the loop over them."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from shallow import PYRAMID as SIX_AND_FOUR
from shallow import WEIGHTS

from jaxnst import Adam, Lbfgs, Status, outcome, preset, style_transfer
from jaxnst.compilation import once
from jaxnst.details import refine
from jaxnst.scale import advance, aim, begin
from jaxnst.scales import run_scales
from jaxnst.schedule import schedule
from jaxnst.sources import shrink_picture
from jaxnst.transfer import make_problem

PYRAMID = replace(SIX_AND_FOUR, num_steps=(5, 3))
ADAM = replace(PYRAMID, optimizer=Adam(average=0.9, clamp=True), scale_factor=2**0.5)
COARSE, FINE = (18, 24), (36, 48)


@pytest.fixture(scope="module")
def problem(small, paint, params):
    """A function from a config to its problem."""

    def make(config=PYRAMID, **options):
        options = {"params": params, "weights": WEIGHTS, "config": config} | options
        return jax.device_put(make_problem(small, paint, **options))

    return make


# --- schedule ------------------------------------------------------------------------------------

DEEP = replace(preset("pastiche").config, num_steps=4)
DEEP_PYRAMID = replace(DEEP, min_size=24, num_steps=(6, 4))


@pytest.mark.parametrize(
    ("shape", "config", "expected"),
    [
        (FINE, DEEP, [(FINE, 4)]),
        (FINE, DEEP_PYRAMID, [(COARSE, 6), (FINE, 4)]),
        (FINE, ADAM, [(COARSE, 5), ((26, 34), 3), (FINE, 3)]),
        (FINE, replace(DEEP_PYRAMID, num_steps=9), [(COARSE, 9), (FINE, 9)]),
        (FINE, replace(DEEP_PYRAMID, num_steps=(9, 8, 7)), [(COARSE, 9), (FINE, 8)]),
        # A picture below the least size has one scale, which is the first.
        (FINE, replace(DEEP_PYRAMID, min_size=100), [(FINE, 6)]),
        # relu5_1 needs 16 pixels: a scale with fewer is left out.
        ((20, 48), DEEP_PYRAMID, [((20, 48), 6)]),
        ((20, 48), PYRAMID, [((10, 24), 5), ((20, 48), 3)]),
    ],
)
def test_the_schedule(shape, config, expected):
    assert schedule((*shape, 3), config) == expected
    assert schedule((7, *shape, 3), config) == expected  # of lanes


# --- a scale as pure functions -------------------------------------------------------------------


def programs(config):
    config = replace(config, optimizer=Lbfgs())  # that of the problem counts
    aimed = jax.jit(partial(aim, config=config), static_argnames="shape")
    begun = jax.jit(partial(begin, config=config), static_argnames="shape")

    def start(problem, previous, *, shape):
        targets = aimed(problem, shape=shape)
        return targets, begun(problem, targets, previous, shape=shape)

    return start, jax.jit(partial(advance, config=config))


@pytest.mark.parametrize("config", [PYRAMID, ADAM], ids=["lbfgs", "adam"])
def test_a_loop_of_ones_own_gives_the_bits_of_a_transfer(problem, config):
    config, given = replace(config, scale_factor=2.0), problem(config)
    (start, go), state, losses = programs(config), None, []
    for shape, num_steps in schedule((*FINE, 3), config):
        targets, state = start(given, state, shape=shape)
        for _ in range(num_steps):
            state, info = go(given, targets, state, 100)
            losses.append(float(info.loss))
    assert int(state.evaluation) == 8 and int(info.evaluation) == 8
    result = style_transfer(
        given.content, given.style, params=given.params, weights=WEIGHTS, config=config
    )
    assert losses == result.history["loss"].tolist()
    np.testing.assert_array_equal(jnp.clip(outcome(state), 0, 1), result.image)


def test_a_step_beyond_the_limit_changes_nothing(problem):
    start, go = programs(ADAM)
    given = problem(ADAM)
    targets, state = start(given, None, shape=COARSE)
    state, _ = go(given, targets, state, 1)
    after, info = go(given, targets, state, 1)
    assert int(info.evaluation) == 0
    for name in set(state._fields) - {"opt_state"}:  # which is not needed any more
        np.testing.assert_array_equal(getattr(after, name), getattr(state, name))


@pytest.mark.slow
def test_a_transfer_can_be_differentiated_by_its_weights(problem):
    """By a finite difference, through two steps in a scan."""
    config = replace(ADAM, optimizer=optax.sgd(1e-3))
    given = problem(config, weights=WEIGHTS.replace(style=1e-4))  # small enough for that rate

    def last_loss(scale):
        here = given._replace(weights=given.weights.replace(tv=scale))
        targets = aim(here, config=config, shape=COARSE)
        state = begin(here, targets, None, config=config, shape=COARSE)

        def body(state, _):
            return advance(here, targets, state, 3, config=config)

        _, infos = jax.lax.scan(body, state, None, length=3)
        return infos.loss[-1]

    at = jnp.float32(0.1)
    loss, slope = jax.jit(jax.value_and_grad(last_loss))(at)
    moved = jax.jit(last_loss)
    difference = (moved(at + 0.1) - moved(at - 0.1)) / 0.2
    assert np.isfinite(loss) and abs(slope) > 0.1
    np.testing.assert_allclose(slope, difference, rtol=0.01)


@pytest.mark.parametrize("config", [PYRAMID, ADAM], ids=["lbfgs", "adam"])
def test_only_adams_moments_go_on_to_the_next_scale(problem, config):
    start, go = programs(config)
    given = problem(config)
    targets, state = start(given, None, shape=COARSE)
    for _ in range(4):
        state, _ = go(given, targets, state, 5)
    _, finer = start(given, state, shape=FINE)
    assert int(finer.evaluation) == 4 and finer.x.shape == (*FINE, 3)
    if config is ADAM:
        is_adam = lambda node: isinstance(node, optax.ScaleByAdamState)  # noqa: E731
        (moments,) = filter(is_adam, jax.tree.leaves(finer.opt_state, is_leaf=is_adam))
        assert int(moments.count) == 4 and moments.mu.shape == (*FINE, 3)
        assert float(jnp.abs(moments.mu).max()) > 0
    else:
        assert int(state.opt_state.pairs.kept) > 0 and int(finer.opt_state.pairs.kept) == 0
    _, lost = start(given, state._replace(status=jnp.int32(Status.NON_FINITE)), shape=FINE)
    assert lost.status == Status.NON_FINITE


# --- the loop ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config", [PYRAMID, pytest.param(ADAM, marks=pytest.mark.slow)], ids=["lbfgs", "adam"]
)
def test_each_scale_starts_from_the_last_ones_image(problem, config):
    given, scales = problem(config), schedule((*FINE, 3), config)
    seen = list(run_scales(given, config, every=1))
    sizes = [max(shape) for shape, num_steps in scales for _ in range(num_steps)]
    assert seen[-1].history["size"].tolist() == sizes
    assert [progress.x.shape[1] for progress in seen] == sizes
    assert {progress.num_steps for progress in seen} == {len(sizes)}
    assert [progress.evaluation for progress in seen] == [*range(1, len(sizes) + 1)]
    assert (np.diff(seen[-1].history["seconds"]) > 0).all()
    assert [bool(progress.done) for progress in seen] == [False] * (len(seen) - 1) + [True]
    # The first loss at the next scale is that of the last one's answer with finer details.
    (_, first_steps), (shape, _), *_ = scales
    styles = [shrink_picture(picture, max(shape) / max(FINE)) for picture in given.style]
    before = refine(seen[first_steps - 1].x, styles, shape)
    start, go = programs(config)
    targets, state = start(given, None, shape=shape)
    _, info = go(given, targets, state._replace(x=before), 1)
    assert seen[-1].history["loss"][first_steps] == pytest.approx(float(info.loss), rel=1e-3)


def test_noise_is_drawn_at_the_coarsest_scale(problem):
    config = replace(PYRAMID, init="noise")
    progress = next(run_scales(problem(config, key=jax.random.key(3)), config, every=1))
    noise = jax.random.uniform(jax.random.key(3), (*COARSE, 3))
    np.testing.assert_array_equal(progress.x, noise)  # after one evaluation it is the best


def test_the_consumer_may_stop_at_any_time(problem):
    progress = next(chunks := run_scales(problem(), PYRAMID, every=1))
    chunks.close()
    again = next(run_scales(problem(), PYRAMID, resume=progress.state, every=1))
    assert (progress.evaluation, again.evaluation) == (1, 2)


def test_a_run_that_goes_on_evaluates_only_what_is_left(problem):
    ran = []

    def lift(function, axes, *, donate=(), **static):
        def program(*args):
            if isinstance(jax.tree.leaves(args)[0], jax.core.Tracer):  # only shapes are asked for
                return function(*args, **static)
            ran.append(function)
            return once(function, axes, donate=donate, **static)(*args)

        return program

    chunks = run_scales(problem(), PYRAMID, every=1)
    *_, last, _ = (jax.device_get(progress.state) for progress in chunks)
    assert last.scale == 1
    *_, end = run_scales(problem(), PYRAMID, lift=lift, resume=last)
    assert end.done and begin not in ran and ran.count(advance) == 1


def test_a_lost_run_ends_at_its_scale(problem):
    *_, last = run_scales(problem(weights=WEIGHTS.replace(style=float("nan"))), PYRAMID)
    assert last.status == Status.NON_FINITE and last.done
    assert last.evaluation == 1 and last.x.shape == (*COARSE, 3)
