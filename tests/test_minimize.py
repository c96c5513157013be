"""`minimize` and `run`, the host's loop, on functions whose minimum is known."""

import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
from helpers import double_precision
from shallow import SHORT, WEIGHTS
from simple_losses import (
    QUADRATIC,
    ROSENBROCK,
    SMALL,
    TREE,
    WALL,
    quadratic,
    same_bits,
    with_half,
)

import jaxnst
from jaxnst import Adam, Lbfgs, Status, init, lbfgs, minimize, restart, step
from jaxnst.history import join
from jaxnst.minimize import history_of, run
from jaxnst.optimize import MAX_RESTARTS

LBFGS, ADAM = lbfgs(), optax.adam(0.1)
both = pytest.mark.parametrize("optimizer", [LBFGS, ADAM], ids=["lbfgs", "adam"])


def cliff(x):
    """Finite at the start alone, which is no minimum."""
    return x[0] * jnp.where(x[0] == 0, -1.0, jnp.nan)


CLIFF = with_half(cliff)
SCALES = np.logspace(0, 3, 30, dtype=np.float32)
CENTRE = np.linspace(-1, 2, 30, dtype=np.float32)


def parts(value_and_grad, x0, optimizer, limits):
    """The last state and the histories of a run that pauses at each limit."""
    advance = jax.jit(
        lambda *args: step(value_and_grad, args[0], optimizer=optimizer, limit=args[1])
    )
    recover = jax.jit(lambda state: restart(state, optimizer=optimizer))
    states, histories = [init(value_and_grad, x0, optimizer=optimizer, average=0.5)], []
    for limit in limits:
        chunks = list(run(lambda s, n=limit: advance(s, n), recover, states[-1], limit))
        states.append(chunks[-1][0])
        histories.append(join([history_of(infos) for _, infos, _ in chunks]))
    return states[-1], histories


@pytest.mark.parametrize(
    ("function", "jac", "value_and_grad", "args", "num_steps"),
    [
        (
            lambda x: 0.5 * np.sum(SCALES * (x - CENTRE) ** 2),
            lambda x: SCALES * (x - CENTRE),
            QUADRATIC,
            (SCALES, CENTRE),
            300,
        ),
        (scipy.optimize.rosen, scipy.optimize.rosen_der, ROSENBROCK, (), 200),
    ],
    ids=["quadratic", "rosenbrock"],
)
def test_reaches_the_minimum_that_scipy_finds(function, jac, value_and_grad, args, num_steps):
    size = 30 if args else 10
    with double_precision():
        args = [jnp.asarray(arg, jnp.float64) for arg in args]
        result = minimize(
            value_and_grad, jnp.zeros(size), *args, optimizer=LBFGS, num_steps=num_steps
        )
    assert result.x.dtype == jnp.float64
    expected = scipy.optimize.minimize(
        function,
        np.zeros(size),
        jac=jac,
        method="L-BFGS-B",
        options={"ftol": 1e-16, "gtol": 1e-10},
    )
    np.testing.assert_allclose(result.x, expected.x, atol=1e-6)
    assert result.history["loss"].min() < 1e-12


@both
def test_makes_exactly_num_steps_evaluations(optimizer):
    seen = []

    def counted(x):
        jax.debug.callback(lambda _: seen.append(1), x[0])
        return ROSENBROCK(x)

    for num_steps in (1, 2, 7, 70):
        seen.clear()
        result = minimize(counted, jnp.full(10, -1.0), optimizer=optimizer, num_steps=num_steps)
        jax.effects_barrier()
        history = result.history
        assert len(seen) == num_steps and result.status is Status.OK
        assert {name: len(row) for name, row in history.items()} == dict.fromkeys(
            ("evaluation", "seconds", "loss", "half"), num_steps
        )
        assert (np.diff([0, *history["seconds"]]) >= 0).all()
        same_bits(history["evaluation"], np.arange(1, num_steps + 1))
        same_bits(history["half"], history["loss"] / 2)


@both
def test_the_history_does_not_depend_on_the_chunks(optimizer):
    runs = []
    for seconds in (1e-9, 1e-3, 100.0):
        x, _, history = minimize(
            ROSENBROCK,
            jnp.full(10, -1.0),
            optimizer=optimizer,
            num_steps=70,
            seconds_per_chunk=seconds,
        )
        runs.append((x, {name: row for name, row in history.items() if name != "seconds"}))
    assert len(runs[0][1]["loss"]) == 70
    same_bits(runs[1], runs[0])
    same_bits(runs[2], runs[0])


@both
def test_a_run_in_parts_has_the_same_bits(optimizer):
    x0 = jnp.zeros(10)
    whole, (history,) = parts(ROSENBROCK, x0, optimizer, [60])
    end, (first, second) = parts(ROSENBROCK, x0, optimizer, [25, 60])
    assert second["evaluation"].tolist() == list(range(26, 61))
    same_bits(join([first, second]), history)
    same_bits(end, whole)


def test_returns_the_best_point_be_it_the_start_and_not_the_last():
    optimizer = optax.adam(0.9)  # overshoots
    result = minimize(QUADRATIC, jnp.zeros(3), *SMALL, optimizer=optimizer, num_steps=20)
    losses = result.history["loss"]
    assert losses[-1] > losses.min()
    np.testing.assert_allclose(quadratic(result.x, *SMALL), losses.min(), rtol=1e-5)
    result = minimize(QUADRATIC, jnp.zeros(3), *SMALL, optimizer=optax.sgd(1.0), num_steps=5)
    assert (np.diff(result.history["loss"]) > 0).all()
    same_bits(result.x, np.zeros(3))


@both
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_start_that_is_not_finite_is_reported_and_kept(optimizer, bad):
    x0 = jnp.array([1.0, 2.0, 3.0])
    centre = jnp.array([bad, 0.0, 0.0])
    result = minimize(QUADRATIC, x0, SMALL[0], centre, optimizer=optimizer, num_steps=20)
    assert result.status is Status.NON_FINITE
    same_bits(result.x, x0)
    assert len(result.history["loss"]) < 20


@both
def test_a_start_in_the_minimum_converges_at_once(optimizer):
    result = minimize(QUADRATIC, SMALL[1], *SMALL, optimizer=optimizer, num_steps=500)
    assert result.status is Status.CONVERGED
    assert len(result.history["loss"]) <= 3
    same_bits(result.x, SMALL[1])


def test_lbfgs_recovers_from_nan():
    result = minimize(WALL, jnp.array([-0.5]), optimizer=LBFGS, num_steps=40)
    assert np.isnan(result.history["loss"]).any()
    assert result.status in (Status.OK, Status.CONVERGED)
    np.testing.assert_allclose(result.x, 0.9375, atol=1e-3)


def test_adam_goes_back_from_nan_with_smaller_steps(caplog):
    scales = []
    result = minimize(
        WALL,
        jnp.array([0.0]),
        optimizer=optax.adam(0.3),
        num_steps=80,
        callback=lambda progress: scales.append(float(progress.state.step_scale)),
    )
    losses = result.history["loss"]
    lost = np.flatnonzero(np.isnan(losses))
    assert result.status is Status.OK and len(losses) == 80
    assert 0 < len(lost) < 8
    assert scales[-1] == 0.5 ** len(lost)
    # After each, it is at the best point so far again.
    for index in lost:
        np.testing.assert_allclose(losses[index + 1], np.nanmin(losses[:index]), rtol=1e-5)
    np.testing.assert_allclose(result.x, 0.9375, atol=2e-2)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == len(lost)
    assert said[0].startswith(f"evaluation {lost[0] + 1} led to a point that is not finite")
    assert "0.5 times" in said[0]


def test_gives_up_if_smaller_steps_do_not_help():
    result = minimize(CLIFF, jnp.zeros(1), optimizer=ADAM, num_steps=200)
    assert result.status is Status.NON_FINITE
    assert MAX_RESTARTS < len(result.history["loss"]) < 40
    same_bits(result.x, np.zeros(1))
    # A pause grants no more restarts.
    state, histories = parts(CLIFF, jnp.zeros(1), ADAM, (5, 10, 200))
    assert int(state.status) == Status.NON_FINITE
    same_bits(join(histories)["loss"], result.history["loss"])


INJECTED = optax.inject_hyperparams(lbfgs, static_args=("memory", "preconditioner"))


@pytest.mark.parametrize(
    "optimizer",
    [
        ADAM,
        optax.sgd(0.1),
        optax.adam(optax.linear_schedule(0.0, 0.2, 10)),  # its first step does not move
        optax.chain(optax.clip(1.0), optax.sgd(0.2)),
        LBFGS,
        optax.chain(lbfgs(), optax.scale_by_schedule(optax.linear_schedule(0.5, 1.0, 10))),
        INJECTED(memory=3),
        INJECTED(optax.linear_schedule(0.5, 1.0, 10), memory=3),
        Adam(learning_rate=0.1),
    ],
)
def test_any_optimizer_and_a_tree_of_arrays(optimizer):
    x0 = {"a": jnp.zeros(2), "b": {"c": jnp.ones((3, 1))}}
    copy = jax.tree.map(np.array, x0)
    result = minimize(TREE, x0, optimizer=optimizer, num_steps=200)
    assert result.status in (Status.OK, Status.CONVERGED)
    np.testing.assert_allclose(result.x["a"], np.ones(2), atol=1e-3)
    np.testing.assert_allclose(result.x["b"]["c"], np.full((3, 1), -2.0), atol=1e-3)
    same_bits(x0, copy)  # neither changed nor deleted


@pytest.mark.parametrize(
    "optimizer", [Adam(average=0.5), Adam(clamp=True), Lbfgs(memory=3), optax.adam(0.02)]
)
def test_a_healthy_run_on_an_image_has_no_nan_and_no_inf(optimizer):
    x0, target = jnp.full((8, 8, 3), 0.5), jnp.linspace(0, 1, 192).reshape(8, 8, 3)
    copy = np.array(target)
    value_and_grad = jax.value_and_grad(lambda x, y: jnp.sum((x - y) ** 2))
    with jax.debug_nans(True), jax.debug_infs(True):
        result = minimize(value_and_grad, x0, target, optimizer=optimizer, num_steps=60)
    assert result.status in (Status.OK, Status.CONVERGED)
    np.testing.assert_allclose(result.x, target, atol=0.02)
    same_bits(target, copy)  # arguments are neither changed nor deleted
    assert list(result.history) == ["evaluation", "seconds", "loss"]


def test_fresh_closures_do_not_pile_up():
    alive = []
    for shift in range(9):
        data = jnp.full(4, float(shift))

        def value_and_grad(x, data=data):
            return jax.value_and_grad(lambda x: jnp.sum((x - data) ** 2))(x)

        minimize(value_and_grad, jnp.zeros(4), optimizer=optax.sgd(0.1), num_steps=1)
        alive.append(weakref.ref(value_and_grad))
        del value_and_grad
    gc.collect()
    assert alive[0]() is None  # the last 8 stay compiled


@pytest.mark.parametrize("transform", [jax.jit, jax.grad, jax.jacfwd], ids=lambda t: t.__name__)
def test_a_run_cannot_be_traced(transform, content, style, params):
    def by_target(target):
        both = jax.value_and_grad(lambda x, y: jnp.sum((x - y) ** 2))
        return minimize(both, jnp.zeros(2), target, optimizer=optax.adam(0.1), num_steps=2).x.sum()

    def by_weight(transfer):
        def loss(weight):
            weights = WEIGHTS.replace(style=weight)
            settings = {"params": params, "weights": weights, "config": SHORT}
            return transfer(content, style, **settings).image.sum()

        return loss

    def by_share(share):
        settings = {"params": params, "weights": WEIGHTS, "config": SHORT}
        return jaxnst.style_transfer(
            content, [style, content], blend=[share, 1], **settings
        ).image.sum()

    runs = [("minimize", by_target), ("style_transfer", by_share)]
    runs += [(f.__name__, by_weight(f)) for f in (jaxnst.style_transfer, jaxnst.sweep)]
    for name, traced in runs:
        with pytest.raises(TypeError, match=f"{name} reads losses .* init and step"):
            transform(traced)(1.0)
