"""The callback of `minimize`, and how a run is interrupted."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from simple_losses import ROSENBROCK, TREE, rosenbrock, same_bits, tree_bowl

from jaxnst import Status, lbfgs, minimize

LBFGS, ADAM = lbfgs(), optax.adam(0.1)


def test_the_callback_gets_each_chunk():
    seen = []
    result = minimize(
        TREE,
        {"a": jnp.zeros(2), "b": {"c": jnp.ones(3)}},
        optimizer=ADAM,
        num_steps=9,
        callback=seen.append,  # answers None
        seconds_per_chunk=1e-9,
    )
    assert result.status is Status.OK
    assert [p.evaluation for p in seen] == [1, *range(3, 10)]
    assert [p.done for p in seen] == [False] * 7 + [True]
    assert {(p.num_steps, p.status) for p in seen} == {(9, Status.OK)}
    assert (np.diff([0, *(p.seconds for p in seen)]) > 0).all()
    for progress in seen:
        losses = result.history["loss"][: progress.evaluation]
        assert isinstance(progress.loss, float) and progress.loss == losses[-1]
        assert progress.terms == {"half": result.history["half"][progress.evaluation - 1]}
        # The point is a copy: later steps have not taken it away.
        np.testing.assert_allclose(tree_bowl(progress.x), losses.min(), rtol=1e-5)


def test_the_callback_is_called_at_each_multiple():
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


def press_ctrl_c(progress):
    if progress.evaluation >= 3:
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "stop", [lambda p: p.evaluation >= 3, press_ctrl_c], ids=["true", "ctrl-c"]
)
def test_an_interrupted_run_ends_with_its_last_record(stop):
    seen = []
    result = minimize(
        ROSENBROCK,
        jnp.zeros(10),
        optimizer=LBFGS,
        num_steps=50,
        callback=lambda progress: seen.append(progress) or stop(progress),
        seconds_per_chunk=1e-9,
    )
    assert result.status is Status.INTERRUPTED and len(seen) == 2
    assert result.history["evaluation"].tolist() == [1, 2, 3]
    same_bits((result.x, result.history), (seen[-1].x, seen[-1].history))
    np.testing.assert_allclose(rosenbrock(result.x), result.history["loss"].min(), rtol=1e-5)


def test_errors_pass_and_so_does_ctrl_c_before_the_first_chunk():
    def value_and_grad(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        minimize(value_and_grad, jnp.zeros(2), optimizer=ADAM, num_steps=2)
    with pytest.raises(ZeroDivisionError):
        minimize(ROSENBROCK, jnp.zeros(10), optimizer=LBFGS, num_steps=5, callback=lambda _: 1 // 0)


def test_after_the_last_step_there_is_nothing_to_interrupt():
    result = minimize(
        ROSENBROCK, jnp.zeros(10), optimizer=LBFGS, num_steps=1, callback=lambda _: True
    )
    assert result.status is Status.OK


@pytest.mark.parametrize("name", ["num_steps", "every"])
@pytest.mark.parametrize("value", [0, -1, True, 2.5])
def test_counts_must_be_positive_integers(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer"):
        minimize(TREE, {}, optimizer=ADAM, **{"num_steps": 1, name: value})
