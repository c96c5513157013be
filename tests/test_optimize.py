"""`init`, `step`, `restart` and `outcome` in loops, scans, gradients and lanes of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import double_precision
from jax import export
from simple_losses import QUADRATIC, SMALL, WALL, quadratic, same_bits

from jaxnst import Adam, Lbfgs, Status, init, lbfgs, outcome, restart, step
from jaxnst.optimize import MAX_RESTARTS

LBFGS, ADAM = lbfgs(), optax.adam(0.1)
both = pytest.mark.parametrize("optimizer", [LBFGS, ADAM], ids=["lbfgs", "adam"])


def scan(value_and_grad, state, length, *args, **options):
    return jax.lax.scan(
        lambda state, _: step(value_and_grad, state, *args, **options), state, length=length
    )


def first_state(optimizer, **options):
    return init(QUADRATIC, jnp.zeros(3), *SMALL, optimizer=optimizer, **options)


@both
def test_two_scans_equal_one_bit_for_bit(optimizer):
    def run(state, length):
        return scan(QUADRATIC, state, length, *SMALL, optimizer=optimizer)[0]

    run, state = jax.jit(run, static_argnums=1), first_state(optimizer)
    whole = run(state, 6)
    assert int(whole.evaluation) == 6
    same_bits(whole, run(run(state, 3), 3))


@both
def test_lanes_equal_single_runs(optimizer):
    scales = jnp.array([[1.0, 10.0, 30.0], [3.0, 1.0, 2.0], [1.0, 1.0, 1.0]])
    # The last lane starts in its minimum and stops before the others.
    starts = jnp.array([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0], [1.0, -2.0, 0.5]])

    def run(x0, scales):
        args = scales, SMALL[1]
        state = init(QUADRATIC, x0, *args, optimizer=optimizer)
        return scan(QUADRATIC, state, 8, *args, optimizer=optimizer)

    lanes, infos = jax.jit(jax.vmap(run))(starts, scales)
    assert lanes.status.tolist() == [Status.OK, Status.OK, Status.CONVERGED]
    assert infos.evaluation[:2].tolist() == [list(range(1, 9))] * 2
    assert infos.evaluation[2].tolist() == [1, 2, 0, 0, 0, 0, 0, 0]
    for i in range(3):
        alone, info = jax.jit(run)(starts[i], scales[i])
        same_bits((alone.evaluation, alone.status), (lanes.evaluation[i], lanes.status[i]))
        np.testing.assert_allclose(lanes.best_x[i], alone.best_x, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(infos.loss[i], info.loss, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", [LBFGS, ADAM, optax.sgd(0.02)], ids=["lbfgs", "adam", "sgd"])
def test_scan_equals_a_loop_and_has_a_gradient(optimizer):
    with double_precision():
        scales, centre = (jnp.asarray(np.asarray(a), jnp.float64) for a in SMALL)

        def start(shift):
            args = scales, centre + shift
            return init(QUADRATIC, jnp.zeros(3), *args, optimizer=optimizer), args

        def end(shift):
            state, args = start(shift)
            return scan(QUADRATIC, state, 4, *args, optimizer=optimizer)[0].x

        state, args = start(0.3)
        once = jax.jit(lambda state: step(QUADRATIC, state, *args, optimizer=optimizer)[0])
        for _ in range(4):
            state = once(state)
        np.testing.assert_allclose(end(0.3), state.x, rtol=1e-12)

        value = jax.jit(lambda shift: jnp.sum(jnp.array([1.0, 2.0, -1.0]) * end(shift)))
        slope = jax.grad(value)(0.3)
        finite_difference = (value(0.3 + 1e-6) - value(0.3 - 1e-6)) / 2e-6
        assert abs(slope) > 1e-3
        np.testing.assert_allclose(slope, finite_difference, rtol=1e-5)


@both
def test_a_step_beyond_the_limit_changes_only_the_optimizer(optimizer):
    once = jax.jit(lambda state: step(QUADRATIC, state, *SMALL, optimizer=optimizer, limit=1))
    state, info = once(first_state(optimizer))
    assert int(info.evaluation) == int(state.evaluation) == 1
    after, info = once(state)
    assert int(info.evaluation) == 0
    same_bits(after._replace(opt_state=state.opt_state), state)


@pytest.mark.parametrize("steps", [1, 12])
def test_outcome_is_the_average_of_the_points_after_each_step(steps):
    # The start is not part of it, and the point after the last step is.
    optimizer, points = Adam(learning_rate=0.1, average=0.8), []
    state = first_state(optimizer)
    once = jax.jit(lambda state: step(QUADRATIC, state, *SMALL, optimizer=optimizer)[0])
    for _ in range(steps):
        state = once(state)
        points.append(state.x)
    shares = 0.8 ** np.arange(steps)[::-1]
    np.testing.assert_allclose(outcome(state), shares @ np.array(points) / shares.sum(), rtol=1e-5)
    same_bits(outcome(first_state(optimizer)), np.zeros(3, np.float32))
    same_bits(outcome(state._replace(decay=jnp.array(0.0))), state.best_x)


def test_restart_by_lanes():
    def lane(x0):
        optimizer = optax.adam(0.3)
        state = init(WALL, x0, optimizer=optimizer)
        return scan(WALL, state, 5, optimizer=optimizer)[0]

    states = jax.jit(jax.vmap(lane))(jnp.array([[0.0], [0.9], [jnp.nan]]))
    back = jax.jit(jax.vmap(lambda state: restart(state, optimizer=optax.adam(0.3))))
    assert states.status.tolist() == [Status.NON_FINITE] * 3
    again = back(states)
    assert again.status.tolist() == [Status.OK, Status.OK, Status.NON_FINITE]
    assert again.step_scale.tolist() == [0.5, 0.5, 1.0]
    same_bits(again.x[:2], states.best_x[:2])
    assert again.opt_state[0].count.tolist()[:2] == [0, 0]
    same_bits(back(again), again)  # where nothing is lost, nothing changes
    spent = states._replace(step_scale=jnp.array([1.0, 0.5**MAX_RESTARTS, 1.0]))
    assert back(spent).status.tolist() == [Status.OK, *[Status.NON_FINITE] * 2]


@pytest.mark.parametrize(
    ("aux", "names"),
    [
        (None, []),
        (lambda x: x, ["aux"]),
        (lambda x: {"a": {"b": x}, "c": [x, x]}, ["a/b", "c/0", "c/1"]),
        (lambda x: (x, {"d": x}), ["0", "1/d"]),
    ],
    ids=["none", "array", "nested", "tuple"],
)
def test_terms_are_the_leaves_of_aux(aux, names):
    def loss(x):
        return jnp.sum(x**2) if aux is None else (jnp.sum(x**2), aux(x))

    value_and_grad = jax.value_and_grad(loss, has_aux=aux is not None)
    state = init(value_and_grad, jnp.ones(2), optimizer=ADAM)
    _, info = jax.jit(lambda state: step(value_and_grad, state, optimizer=ADAM))(state)
    assert list(info.terms) == names
    for term in info.terms.values():
        np.testing.assert_array_equal(term, np.ones(2))
    assert float(info.loss) == 2.0


@pytest.mark.parametrize("name", ["loss", "seconds", "evaluation"])
def test_a_term_called_like_a_row_of_the_history_is_refused(name):
    value_and_grad = jax.value_and_grad(lambda x: (x, {name: x}), has_aux=True)
    with pytest.raises(ValueError, match=f"a term must not be called '{name}'"):
        init(value_and_grad, jnp.array(1.0), optimizer=ADAM)


def test_the_loss_must_be_a_number():
    with pytest.raises(ValueError, match=r"a number as its loss, not shape \(2,\)"):
        init(lambda x: ((x, {}), x), jnp.zeros(2), optimizer=ADAM)


def test_a_loss_may_fold_the_evaluation_into_a_key():
    def noise(key, evaluation):
        return jax.random.normal(jax.random.fold_in(key, evaluation), (3,))

    def value_and_grad(x, key, *, evaluation):
        return jax.value_and_grad(quadratic)(x, jnp.ones(3), noise(key, evaluation))

    key, optimizer = jax.random.key(7), optax.sgd(0.0)
    state = init(value_and_grad, jnp.zeros(3), key, optimizer=optimizer, evaluation=5)
    _, infos = scan(value_and_grad, state, 2, key, optimizer=optimizer)  # then it has converged
    expected = [0.5 * np.sum(np.square(noise(key, n))) for n in (5, 6)]
    np.testing.assert_allclose(infos.loss, expected, rtol=1e-6)


def test_an_optimizer_that_searches_along_lines_is_refused_with_the_reason():
    state = first_state(optax.lbfgs())
    with pytest.raises(TypeError, match=r"one step is one evaluation: use jaxnst\.lbfgs\(\)"):
        step(QUADRATIC, state, *SMALL, optimizer=optax.lbfgs())
    optimizer = optax.lbfgs(learning_rate=0.5, linesearch=None)
    _, infos = scan(QUADRATIC, first_state(optimizer), 20, *SMALL, optimizer=optimizer)
    assert infos.loss[-1] < infos.loss[0] / 10


@pytest.mark.parametrize("optimizer", [LBFGS, Adam(learning_rate=0.1, average=0.5)])
def test_leaves_keep_their_types(optimizer):
    x0 = {"a": jnp.zeros(2), "b": jnp.zeros(3, jnp.bfloat16), "c": jnp.zeros(2, jnp.float16)}

    def loss(x):
        return sum(jnp.sum((leaf.astype(jnp.float32) - 1) ** 2) for leaf in x.values())

    value_and_grad = jax.value_and_grad(loss)
    state = init(value_and_grad, x0, optimizer=optimizer)
    after, infos = scan(value_and_grad, state, 30, optimizer=optimizer)
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda x: x.dtype, state)
    assert infos.loss[-1] < infos.loss[0] / 100


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@both
def test_a_gradient_that_is_not_finite_is_no_convergence(optimizer, bad):
    def value_and_grad(x):
        return jnp.sum(x**2), jnp.where(x == 1, bad, 2 * x)

    state = init(value_and_grad, jnp.array([1.0, 2.0]), optimizer=optimizer)
    state, _ = scan(value_and_grad, state, 4, optimizer=optimizer)
    assert Status(int(state.status)) is Status.NON_FINITE
    same_bits(outcome(state), np.array([1.0, 2.0], np.float32))


@pytest.mark.parametrize("optimizer", [Lbfgs(memory=2), Adam(), Adam(clamp=True), LBFGS, ADAM])
def test_a_step_can_be_exported_and_serialised(optimizer):
    x0, target = jnp.zeros((4, 4, 3)), jnp.ones((4, 4, 3))

    def advance(state, target):
        return step(QUADRATIC, state, jnp.array(1.0), target, optimizer=optimizer)

    state = init(QUADRATIC, x0, jnp.array(1.0), target, optimizer=optimizer)
    data = export.export(jax.jit(advance))(state, target).serialize()
    loaded = export.deserialize(bytearray(data)).call(state, target)
    assert jax.tree.structure(loaded) == jax.tree.structure(jax.eval_shape(advance, state, target))
    same_bits(loaded, jax.jit(advance)(state, target))


def test_a_status_prints_its_name():
    assert [str(Status.OK), f"{Status(2)}"] == ["Status.OK", "Status.NON_FINITE"]
