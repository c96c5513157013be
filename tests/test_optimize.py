"""`minimize`, `run_chunk` and `run_scan` on functions whose minimum is known."""

import signal
import threading
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize

from jaxnst import Status, lbfgs, minimize
from jaxnst.optimize import MAX_RESTARTS, init, restart, run, run_chunk, run_scan

LBFGS = lbfgs()
ADAM = optax.adam(0.1)


def with_terms(function):
    """`function(x, *args)` as what `minimize` wants, with one term beside the loss."""

    def both(x, *args):
        loss = function(x, *args)
        return loss, {"half": loss / 2}

    return jax.value_and_grad(both, has_aux=True)


def quadratic(x, scales, centre):
    return 0.5 * jnp.sum(scales * (x - centre) ** 2)


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def tree_bowl(x):
    return jnp.sum((x["a"] - 1) ** 2) + jnp.sum((x["b"]["c"] + 2) ** 2)


def wall(x):
    """Convex, least at 0.9375; beyond 1 the value and the gradient are nan."""
    return jnp.sum(-x - 0.5 * jnp.sqrt(1 - x))


def cliff(x):
    """Finite at the start alone, which is no minimum."""
    return x[0] * jnp.where(x[0] == 0, -1.0, jnp.nan)


QUADRATIC = with_terms(quadratic)
ROSENBROCK = with_terms(rosenbrock)
TREE = with_terms(tree_bowl)
WALL = with_terms(wall)
CLIFF = with_terms(cliff)
SCALES = np.logspace(0, 3, 30, dtype=np.float32)
CENTRE = np.linspace(-1, 2, 30, dtype=np.float32)
SMALL = (jnp.array([1.0, 10.0, 30.0]), jnp.array([1.0, -2.0, 0.5]))


def same_bits(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def test_quadratic_reaches_the_minimum_that_scipy_finds():
    with jax.enable_x64(True):
        args = jnp.asarray(SCALES, jnp.float64), jnp.asarray(CENTRE, jnp.float64)
        result = minimize(QUADRATIC, jnp.zeros(30), *args, optimizer=LBFGS, num_steps=300)
        assert result.x.dtype == jnp.float64
    expected = scipy.optimize.minimize(
        lambda x: (0.5 * np.sum(SCALES * (x - CENTRE) ** 2), SCALES * (x - CENTRE)),
        np.zeros(30),
        jac=True,
        method="L-BFGS-B",
        options={"ftol": 1e-16, "gtol": 1e-10},
    )
    np.testing.assert_allclose(result.x, expected.x, atol=1e-6)
    np.testing.assert_allclose(result.x, CENTRE, atol=1e-6)


def test_rosenbrock_reaches_the_minimum_that_scipy_finds():
    with jax.enable_x64(True):
        result = minimize(ROSENBROCK, jnp.zeros(10), optimizer=LBFGS, num_steps=200)
    expected = scipy.optimize.minimize(
        scipy.optimize.rosen,
        np.zeros(10),
        jac=scipy.optimize.rosen_der,
        method="L-BFGS-B",
        options={"ftol": 1e-16, "gtol": 1e-10},
    )
    np.testing.assert_allclose(result.x, expected.x, atol=1e-6)
    assert result.history["loss"].min() < 1e-12


@pytest.mark.parametrize("optimizer", [LBFGS, ADAM], ids=["lbfgs", "adam"])
@pytest.mark.parametrize("num_steps", [1, 2, 7, 70])
def test_makes_exactly_num_steps_evaluations(optimizer, num_steps):
    seen = []
    bare = with_terms(rosenbrock)

    def counted(x):
        jax.debug.callback(lambda _: seen.append(1), x[0])
        return bare(x)

    result = minimize(counted, jnp.full(10, -1.0), optimizer=optimizer, num_steps=num_steps)
    jax.effects_barrier()
    assert len(seen) == int(result.state.evaluation) == num_steps
    assert {k: len(v) for k, v in result.history.items()} == dict.fromkeys(
        ("evaluation", "seconds", "loss", "half"), num_steps
    )
    assert (np.diff([0, *result.history["seconds"]]) >= 0).all()
    np.testing.assert_array_equal(result.history["evaluation"], np.arange(1, num_steps + 1))
    np.testing.assert_array_equal(result.history["half"], result.history["loss"] / 2)
    assert result.status is Status.OK


@pytest.mark.parametrize("optimizer", [LBFGS, ADAM], ids=["lbfgs", "adam"])
def test_history_does_not_depend_on_the_chunks(optimizer):
    runs = [
        minimize(
            ROSENBROCK,
            jnp.full(10, -1.0),
            optimizer=optimizer,
            num_steps=70,  # more than the state's ring holds
            seconds_per_chunk=seconds,
        )
        for seconds in (1e-9, 1e-3, 100.0)
    ]
    assert len(runs[0].history["loss"]) == 70
    for one in runs:
        one.history.pop("seconds")
    for one in runs[1:]:
        same_bits(one.history, runs[0].history)
        same_bits(one.x, runs[0].x)


@pytest.mark.parametrize("optimizer", [LBFGS, ADAM], ids=["lbfgs", "adam"])
def test_two_chunks_are_one_bit_for_bit(optimizer):
    run = jax.jit(run_chunk, static_argnums=0)
    state = init(QUADRATIC, jnp.zeros(3), *SMALL, optimizer=optimizer)
    whole = run(QUADRATIC, state, 6, *SMALL)
    halves = run(QUADRATIC, run(QUADRATIC, state, 3, *SMALL), 3, *SMALL)
    assert int(whole.evaluation) == 6
    same_bits(whole, halves)


@pytest.mark.parametrize("optimizer", [LBFGS, ADAM], ids=["lbfgs", "adam"])
def test_chunks_under_jit_and_vmap_equal_single_runs(optimizer):
    scales = jnp.array([[1.0, 10.0, 30.0], [3.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    # The last lane starts in its minimum and stops before the others.
    starts = jnp.array([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0], [1.0, -2.0, 0.5]])

    def run(x0, scales):
        state = init(QUADRATIC, x0, scales, SMALL[1], optimizer=optimizer)
        return run_chunk(QUADRATIC, state, 8, scales, SMALL[1])

    lanes = jax.jit(jax.vmap(run))(starts, scales)
    for i in range(3):
        alone = minimize(
            QUADRATIC, starts[i], scales[i], SMALL[1], optimizer=optimizer, num_steps=8
        )
        count = int(alone.state.evaluation)
        assert int(lanes.evaluation[i]) == count
        assert int(lanes.status[i]) == alone.status
        np.testing.assert_allclose(lanes.best_x[i], alone.x, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(
            lanes.history["loss"][i, :count], alone.history["loss"], rtol=1e-3, atol=1e-5
        )
    assert lanes.status.tolist() == [Status.OK, Status.OK, Status.CONVERGED]


@pytest.mark.parametrize("optimizer", [LBFGS, ADAM, optax.sgd(0.02)], ids=["lbfgs", "adam", "sgd"])
def test_scan_equals_chunk_and_can_be_differentiated(optimizer):
    with jax.enable_x64(True):
        scales, centre = (jnp.asarray(np.asarray(a), jnp.float64) for a in SMALL)

        def end(shift, run=run_scan):
            args = scales, centre + shift
            state = init(QUADRATIC, jnp.zeros(3), *args, optimizer=optimizer)
            return run(QUADRATIC, state, 4, *args)

        same_bits(end(0.3).evaluation, end(0.3, run_chunk).evaluation)
        np.testing.assert_allclose(end(0.3).x, end(0.3, run_chunk).x, rtol=1e-12)

        weights = jnp.array([1.0, 2.0, -1.0])
        value = jax.jit(lambda shift: jnp.sum(weights * end(shift).x))
        slope = jax.grad(value)(0.3)
        finite_difference = (value(0.3 + 1e-6) - value(0.3 - 1e-6)) / 2e-6
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(slope, finite_difference, rtol=1e-5)


def test_returns_the_best_point_and_not_the_last():
    optimizer = optax.adam(0.9)  # overshoots
    result = minimize(QUADRATIC, jnp.zeros(3), *SMALL, optimizer=optimizer, num_steps=20)
    losses = result.history["loss"]
    assert losses[-1] > losses.min()
    np.testing.assert_allclose(quadratic(result.x, *SMALL), losses.min(), rtol=1e-5)
    assert result.state.best_loss == losses.min()


def test_returns_the_start_where_all_else_is_worse():
    result = minimize(QUADRATIC, jnp.zeros(3), *SMALL, optimizer=optax.sgd(1.0), num_steps=5)
    assert (np.diff(result.history["loss"]) > 0).all()
    np.testing.assert_array_equal(result.x, np.zeros(3))


@pytest.mark.parametrize("optimizer", [LBFGS, ADAM], ids=["lbfgs", "adam"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_start_that_is_not_finite_is_reported_and_kept(optimizer, bad):
    centre = jnp.array([bad, 0.0, 0.0])
    x0 = jnp.array([1.0, 2.0, 3.0])
    result = minimize(QUADRATIC, x0, SMALL[0], centre, optimizer=optimizer, num_steps=20)
    assert result.status is Status.NON_FINITE
    np.testing.assert_array_equal(result.x, x0)
    assert len(result.history["loss"]) < 20


def test_lbfgs_recovers_from_nan():
    result = minimize(WALL, jnp.array([-0.5]), optimizer=LBFGS, num_steps=40)
    assert np.isnan(result.history["loss"]).any()
    assert result.status in (Status.OK, Status.CONVERGED)
    np.testing.assert_allclose(result.x, 0.9375, atol=1e-3)


def test_adam_goes_back_from_nan_with_smaller_steps(caplog):
    result = minimize(WALL, jnp.array([0.0]), optimizer=optax.adam(0.3), num_steps=80)
    losses = result.history["loss"]
    lost = np.flatnonzero(np.isnan(losses))
    assert result.status is Status.OK and len(losses) == 80
    assert 0 < len(lost) < 8
    assert float(result.state.step_scale) == 0.5 ** len(lost)
    # After each, it is at the best point so far again.
    for index in lost:
        np.testing.assert_allclose(losses[index + 1], np.nanmin(losses[:index]), rtol=1e-5)
    np.testing.assert_allclose(result.x, 0.9375, atol=2e-2)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(lost)
    assert said[0].startswith(f"evaluation {lost[0] + 1} led to a point that is not finite")
    assert "0.5 times" in said[0]


def test_gives_up_where_smaller_steps_do_not_help():
    result = minimize(CLIFF, jnp.zeros(1), optimizer=ADAM, num_steps=200)
    assert result.status is Status.NON_FINITE
    assert MAX_RESTARTS < len(result.history["loss"]) < 40
    np.testing.assert_array_equal(result.x, [0.0])


def test_a_pause_grants_no_more_restarts():
    whole = minimize(CLIFF, jnp.zeros(1), optimizer=ADAM, num_steps=200)
    state = init(CLIFF, jnp.zeros(1), optimizer=ADAM)
    losses = []
    for pause in (5, 10, 200):
        part = run(CLIFF, state, num_steps=pause, interrupted=threading.Event())
        state = part.state
        losses += part.history["loss"].tolist()
    assert part.status is Status.NON_FINITE
    np.testing.assert_array_equal(losses, whole.history["loss"])


def test_restart_by_lanes():
    starts = jnp.array([[0.0], [0.9], [jnp.nan]])

    def lane(x0):
        state = init(WALL, x0, optimizer=optax.adam(0.3))
        return run_chunk(WALL, state, 5)

    states = jax.jit(jax.vmap(lane))(starts)
    assert states.status.tolist() == [Status.NON_FINITE, Status.NON_FINITE, Status.NON_FINITE]
    again = jax.jit(jax.vmap(restart))(states)
    assert again.status.tolist() == [Status.OK, Status.OK, Status.NON_FINITE]
    assert again.step_scale.tolist() == [0.5, 0.5, 1.0]
    np.testing.assert_array_equal(again.x[:2], states.best_x[:2])
    assert again.opt_state[0].count.tolist()[:2] == [0, 0]
    twice = jax.vmap(restart)(again)
    same_bits(twice, again)  # where nothing is lost, nothing changes
    spent = replace(states, step_scale=jnp.array([1.0, 0.5**MAX_RESTARTS, 1.0]))
    assert jax.vmap(restart)(spent).status.tolist() == [Status.OK, *[Status.NON_FINITE] * 2]


def test_average_is_that_of_the_points():
    points = []

    def seen(x):
        jax.debug.callback(lambda x: points.append(np.array(x)), x)
        return quadratic(x, *SMALL)

    result = minimize(with_terms(seen), jnp.zeros(3), optimizer=ADAM, num_steps=12, average=0.8)
    jax.effects_barrier()
    # The start is not part of it, and the point after the last step is.
    points = np.array([*points[1:], result.state.x])
    shares = 0.8 ** np.arange(len(points))[::-1]
    np.testing.assert_allclose(result.x, shares @ points / shares.sum(), rtol=1e-5)


def test_average_of_one_step_is_that_step():
    result = minimize(QUADRATIC, jnp.zeros(3), *SMALL, optimizer=ADAM, num_steps=1, average=0.99)
    np.testing.assert_allclose(result.x, result.state.x, rtol=1e-5)
    assert np.abs(result.x).min() > 0.05


@pytest.mark.parametrize("average", [-0.1, 1.0, np.nan])
def test_average_must_be_a_decay(average):
    with pytest.raises(ValueError, match="average"):
        minimize(TREE, {}, optimizer=ADAM, num_steps=1, average=average)


@pytest.mark.parametrize("optimizer", [LBFGS, ADAM], ids=["lbfgs", "adam"])
def test_start_in_the_minimum_converges_at_once(optimizer):
    result = minimize(QUADRATIC, SMALL[1], *SMALL, optimizer=optimizer, num_steps=500)
    assert result.status is Status.CONVERGED
    assert len(result.history["loss"]) <= 3
    np.testing.assert_array_equal(result.x, SMALL[1])


def test_callback_gets_each_chunk():
    seen = []
    result = minimize(
        TREE,
        {"a": jnp.zeros(2), "b": {"c": jnp.ones(3)}},
        optimizer=ADAM,
        num_steps=9,
        callback=lambda progress: seen.append(progress),  # answers None
        seconds_per_chunk=1e-9,
    )
    assert result.status is Status.OK
    assert [p.evaluation for p in seen] == [1, *range(3, 10)]
    assert {p.num_steps for p in seen} == {9}
    assert (np.diff([0, *(p.seconds for p in seen)]) > 0).all()
    for progress in seen:
        losses = result.history["loss"][: progress.evaluation]
        assert progress.loss == losses[-1]
        assert progress.terms == {"half": result.history["half"][progress.evaluation - 1]}
        assert isinstance(progress.loss, float)
        # The picture is its own copy: later steps have not taken it away.
        np.testing.assert_allclose(tree_bowl(progress.x), losses.min(), rtol=1e-5)


def test_callback_is_called_at_each_multiple():
    seen = []
    minimize(
        ROSENBROCK,
        jnp.zeros(10),
        optimizer=ADAM,
        num_steps=70,
        every=15,
        callback=lambda progress: seen.append(progress.evaluation),
    )
    assert set(seen) >= {15, 30, 45, 60, 70}


@pytest.mark.parametrize("optimizer", [LBFGS, ADAM], ids=["lbfgs", "adam"])
def test_a_run_in_parts_has_the_same_bits(optimizer):
    def part(state, num_steps):
        event = threading.Event()
        return run(ROSENBROCK, state, num_steps=num_steps, interrupted=event)

    def start():
        return init(ROSENBROCK, jnp.zeros(10), optimizer=optimizer, average=0.5)

    whole = part(start(), 60)
    first = part(start(), 25)
    second = part(first.state, 60)
    assert second.history["evaluation"].tolist() == list(range(26, 61))
    losses = np.concatenate([first.history["loss"], second.history["loss"]])
    np.testing.assert_array_equal(losses, whole.history["loss"])
    same_bits(second.x, whole.x)
    same_bits(second.state, whole.state)


def test_the_last_record_is_where_an_interrupted_run_stopped():
    seen = []

    def callback(progress):
        seen.append(progress)
        if len(seen) == 3:
            signal.raise_signal(signal.SIGINT)

    result = minimize(
        ROSENBROCK,
        jnp.zeros(10),
        optimizer=LBFGS,
        num_steps=50,
        callback=callback,
        seconds_per_chunk=1e-9,
    )
    assert result.status is Status.INTERRUPTED and len(seen) == 3
    same_bits(seen[-1].state, result.state)
    same_bits(seen[-1].history, result.history)


def test_true_answer_of_the_callback_ends_the_run():
    result = minimize(
        ROSENBROCK,
        jnp.zeros(10),
        optimizer=LBFGS,
        num_steps=50,
        callback=lambda progress: progress.evaluation >= 3,
        seconds_per_chunk=1e-9,
    )
    assert result.status is Status.INTERRUPTED
    assert len(result.history["loss"]) == 3
    np.testing.assert_allclose(rosenbrock(result.x), result.history["loss"].min(), rtol=1e-5)


def test_interruption_after_the_last_step_is_none():
    result = minimize(
        ROSENBROCK, jnp.zeros(10), optimizer=LBFGS, num_steps=1, callback=lambda _: True
    )
    assert result.status is Status.OK


def test_ctrl_c_ends_the_run_with_a_result():
    before = signal.getsignal(signal.SIGINT)
    result = minimize(
        ROSENBROCK,
        jnp.zeros(10),
        optimizer=LBFGS,
        num_steps=50,
        callback=lambda _: signal.raise_signal(signal.SIGINT),
    )
    assert result.status is Status.INTERRUPTED
    assert len(result.history["loss"]) == 1
    assert np.isfinite(result.x).all()
    assert signal.getsignal(signal.SIGINT) is before


def test_second_ctrl_c_is_immediate():
    before = signal.getsignal(signal.SIGINT)

    def twice(_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        minimize(ROSENBROCK, jnp.zeros(10), optimizer=LBFGS, num_steps=50, callback=twice)
    assert signal.getsignal(signal.SIGINT) is before


def test_handler_is_restored_after_an_error_of_the_callback():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError):
        minimize(ROSENBROCK, jnp.zeros(10), optimizer=LBFGS, num_steps=5, callback=lambda _: 1 // 0)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adam(0.1),
        optax.sgd(0.1),
        optax.adam(optax.linear_schedule(0.0, 0.2, 10)),  # its first step does not move
        optax.chain(optax.clip(1.0), optax.sgd(0.2)),
        LBFGS,
    ],
    ids=["adam", "sgd", "schedule", "chain", "lbfgs"],
)
def test_any_optimizer_and_a_tree_of_arrays(optimizer):
    x0 = {"a": jnp.zeros(2), "b": {"c": jnp.ones((3, 1))}}
    copy = jax.tree.map(np.array, x0)
    result = minimize(TREE, x0, optimizer=optimizer, num_steps=200)
    assert result.status in (Status.OK, Status.CONVERGED)
    np.testing.assert_allclose(result.x["a"], np.ones(2), atol=1e-3)
    np.testing.assert_allclose(result.x["b"]["c"], np.full((3, 1), -2.0), atol=1e-3)
    same_bits(x0, copy)  # neither changed nor deleted


def test_args_are_not_deleted():
    args = jnp.array([1.0, 2.0]), jnp.array([3.0, 4.0])
    minimize(QUADRATIC, args[1], *args, optimizer=ADAM, num_steps=3)
    np.testing.assert_array_equal(args, [[1, 2], [3, 4]])


@pytest.mark.parametrize("num_steps", [0, -1, True, 2.5])
def test_num_steps_must_be_a_positive_integer(num_steps):
    with pytest.raises(ValueError, match="num_steps must be a positive integer"):
        minimize(TREE, {}, optimizer=ADAM, num_steps=num_steps)


def test_loss_must_be_a_number():
    with pytest.raises(ValueError, match="a number as its loss"):
        minimize(lambda x: ((x, {}), x), jnp.zeros(2), optimizer=ADAM, num_steps=1)
