"""L-BFGS against a naive one and on a nasty function; its preconditioner."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import double_precision, normal

from jaxnst import init, lbfgs, step
from jaxnst.lbfgs import LbfgsState, Pairs


def trajectory(function, x, optimizer, count, state=None):
    """The evaluated points, their values, and the accepted value after each."""
    both, update = jax.jit(jax.value_and_grad(function)), jax.jit(optimizer.update)
    state = optimizer.init(x) if state is None else state
    points, values, accepted = [], [], []
    for _ in range(count):
        value, grad = both(x)
        points.append(np.array(x))
        values.append(float(value))
        step, state = update(grad, state, x, value=value)
        accepted.append(float(state.value))
        x = x + step
    return np.array(points), np.array(values), np.array(accepted), x, state


def naive_lbfgs(function, gradient, x, count, memory):
    """The evaluated points of a textbook's L-BFGS with backtracking, lists and loops."""
    points, pairs = [x], []
    g = gradient(x)
    direction, step = -g, 1 / np.abs(g).sum()
    while len(points) < count:
        trial = x + step * direction
        points.append(trial)
        if function(trial) > function(x) + 1e-4 * step * (g @ direction):
            step /= 2
            continue
        new = gradient(trial)
        s, y = trial - x, new - g
        if s @ y > 0:
            pairs = [*pairs, (s, y)][-memory:]
        x, g, step = trial, new, 1.0
        q, alphas = g.copy(), []
        for s, y in reversed(pairs):
            alphas.append((s @ q) / (s @ y))
            q -= alphas[-1] * y
        s, y = pairs[-1]
        q *= (s @ y) / (y @ y)
        for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
            q += (alpha - (y @ q) / (s @ y)) * s
        direction = -q
    return np.array(points)


@pytest.mark.parametrize("memory", [1, 3, 20])
def test_proposes_what_a_naive_one_does(memory):
    scales, centre = np.logspace(0, 2, 12), np.linspace(-1, 1, 12)
    expected = naive_lbfgs(
        lambda x: 0.5 * np.sum(scales * (x - centre) ** 2),
        lambda x: scales * (x - centre),
        np.zeros(12),
        12,
        memory,
    )
    with double_precision():
        points = trajectory(
            lambda x: 0.5 * jnp.sum(scales * (x - centre) ** 2),
            jnp.zeros(12),
            lbfgs(memory=memory),
            12,
        )[0]
    np.testing.assert_allclose(points, expected, rtol=1e-7, atol=1e-9)


def test_first_step_has_a_1_norm_of_the_learning_rate():
    points = trajectory(
        lambda x: jnp.sum(50 * x**2), jnp.arange(1.0, 5), lbfgs(learning_rate=0.25), 2
    )[0]
    np.testing.assert_allclose(np.abs(points[1] - points[0]).sum(), 0.25, rtol=1e-5)


def test_values_do_not_depend_on_the_unit():
    # A warm state in units 2**k larger: values stay bit for bit, for no threshold has a unit.
    unit = 2.0**-20

    def bowl(x):
        return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)

    optimizer = lbfgs()
    *_, x, state = trajectory(bowl, jnp.zeros(6), optimizer, 8)
    pairs = state.pairs
    scaled = LbfgsState(
        x=state.x * unit,
        grad=state.grad / unit,
        value=state.value,
        direction=state.direction * unit,
        slope=state.slope,
        step=state.step,
        pairs=Pairs(pairs.s * unit, pairs.y / unit, pairs.rho, pairs.kept, pairs.scale * unit**2),
    )
    values = trajectory(bowl, x, optimizer, 40, state)[1]
    in_units = trajectory(lambda x: bowl(x / unit), x * unit, optimizer, 40, scaled)[1]
    assert values[-1] < values[0] / 10
    np.testing.assert_allclose(in_units[:15], values[:15], rtol=1e-4)


def test_units_of_255_converge_about_as_fast():
    def bowl(x):
        return jnp.sum(jnp.linspace(1, 30, 8) * (x - 1) ** 2)

    ends = [
        trajectory(lambda x, u=unit: bowl(x / u), jnp.zeros(8), lbfgs(), 40)[2]
        for unit in (1.0, 255.0)
    ]
    for end in ends:
        assert end[-1] < 1e-6 * end[0]


def test_never_climbs_on_a_nasty_function():
    def nasty(x):
        return jnp.sum(0.05 * x**2 + 3 * jnp.cos(4 * x)) + jnp.sin(jnp.sum(x) * 3)

    refused = 0
    for seed in range(4):
        x0 = 3 * normal(12, seed=seed)
        _, values, accepted, *_ = trajectory(nasty, x0, lbfgs(), 80)
        assert (np.diff(accepted) <= 0).all()
        assert accepted[-1] < values[0]
        np.testing.assert_array_equal(accepted, np.minimum.accumulate(values))
        refused += np.sum(values[1:] > accepted[:-1])
    assert refused > 0


@pytest.mark.parametrize("scaling", [1.0, 2.0])
def test_a_preconditioner_is_another_choice_of_variables(scaling):
    # x = root @ z: L-BFGS in x, preconditioned by root @ root.T, is L-BFGS in z as it is.
    scales, centre = np.logspace(0, 2, 6), np.linspace(-1, 1, 6)
    with double_precision():
        root = jnp.asarray(np.linalg.qr(np.vander(centre, 6))[0] * np.linspace(0.3, 2, 6))

        def bowl(x):
            return 0.5 * jnp.sum(scales * (x - centre) ** 2)

        def preconditioner(x):
            return root @ (root.T @ x)

        # The first step's length is in x, so both are given a pair to begin with.
        points = []
        for function, map_back, options in (
            (bowl, lambda x: x, {"preconditioner": preconditioner}),
            (lambda z: bowl(root @ z), lambda z: root @ z, {}),
        ):
            optimizer = lbfgs(initial_scaling=scaling, **options)
            start = jnp.zeros(6)
            step = -jax.grad(lambda z: bowl(root @ z))(jnp.zeros(6)) / 300
            second = root @ step if options else step
            state = optimizer.init(start)
            value, grad = jax.value_and_grad(function)(start)
            _, state = jax.jit(optimizer.update)(grad, state, start, value=value)
            path = trajectory(function, second, optimizer, 10, state)[0]
            points.append([np.asarray(map_back(point)) for point in path])
    np.testing.assert_allclose(points[0], points[1], rtol=1e-6, atol=1e-9)


def test_lengths_of_steps_are_what_was_asked_for():
    def rms(x):
        return np.sqrt(np.mean(np.square(x)))

    def steep(x):
        return jnp.sum(jnp.linspace(1, 3, 8) * (x - 5) ** 2)

    optimizer = lbfgs(first_step=0.25, max_step=0.75)
    points = trajectory(steep, jnp.zeros(8), optimizer, 9)[0]
    lengths = [rms(step) for step in np.diff(points, axis=0)]
    np.testing.assert_allclose(lengths[0], 0.25, rtol=1e-5)
    np.testing.assert_allclose(lengths[1], 0.75, rtol=1e-5)  # would like to go all the way
    assert max(lengths) < 0.75 * (1 + 1e-5)
    assert rms(points[-1] - 5) < 0.05
    free = trajectory(steep, jnp.zeros(8), lbfgs(first_step=0.25), 3)[0]
    assert rms(free[2] - free[1]) > 1.5


def test_a_first_gradient_of_zero_goes_nowhere():
    for optimizer in (lbfgs(), lbfgs(first_step=0.1, max_step=0.2)):
        points = trajectory(lambda x: jnp.sum(x**2), jnp.zeros(3), optimizer, 4)[0]
        np.testing.assert_array_equal(points, np.zeros((4, 3)))


@pytest.mark.parametrize("name", ["first_step", "max_step", "initial_scaling", "memory"])
@pytest.mark.parametrize("value", [0, -1])
def test_sizes_must_be_positive(name, value):
    for bad in [value] if name == "memory" else [value, float(value), float("nan")]:
        with pytest.raises(ValueError, match=f"{name} must be a positive number, not {bad!r}"):
            lbfgs(**{name: bad})


@pytest.mark.parametrize("memory", [2**62, 10**30])
def test_a_memory_that_would_abort_the_process_is_refused(memory):
    with pytest.raises(ValueError, match="memory must be at most 100000000, not"):
        lbfgs(memory=memory)


@pytest.mark.parametrize("memory", [2.0, True, jnp.array(3)], ids=["float", "bool", "array"])
def test_memory_must_be_an_integer(memory):
    with pytest.raises(TypeError, match="memory must be an integer.*static_args="):
        lbfgs(memory=memory)


def test_numbers_may_be_traced():
    def end(rate, armijo, first, most, scaling):
        optimizer = lbfgs(
            rate, armijo=armijo, first_step=first, max_step=most, initial_scaling=scaling
        )

        def body(carry, _):
            x, state = carry
            value, grad = jax.value_and_grad(lambda x: jnp.sum((x - 1) ** 2))(x)
            step, state = optimizer.update(grad, state, x, value=value)
            return (x + step, state), None

        return jax.lax.scan(body, (jnp.zeros(4), optimizer.init(jnp.zeros(4))), length=3)[0][0]

    numbers = jnp.array([[1.0, 1e-4, 0.1, 0.2, 2.0], [0.5, 1e-3, 0.2, 0.3, 1.0]])
    lanes = jax.jit(jax.vmap(lambda row: end(*row)))(numbers)
    for lane, row in zip(lanes, numbers.tolist(), strict=True):
        np.testing.assert_allclose(lane, jax.jit(lambda row=row: end(*row))(), rtol=1e-5)


def test_a_derivative_through_a_smooth_run_is_a_finite_difference():
    # Three pairs of ten steps: slots are empty at first, and later written over.
    draw = np.random.default_rng(0)
    matrix, shift, start = (draw.normal(size=shape) for shape in ((12, 6), 12, 6))

    def loss(x, weight):
        return jnp.sum(jnp.log1p((matrix @ x - shift) ** 2)) + weight * jnp.sum(jnp.tanh(x) ** 2)

    both, optimizer = jax.value_and_grad(loss), lbfgs(memory=3)

    def end(weight):
        def body(state, _):
            return step(both, state, weight, optimizer=optimizer)

        state = init(both, jnp.asarray(start), weight, optimizer=optimizer)
        return jnp.sum(jax.lax.scan(body, state, length=10)[0].x ** 3)

    with double_precision():
        run = jax.jit(end)
        numeric = (run(0.7 + 1e-6) - run(0.7 - 1e-6)) / 2e-6
        assert abs(numeric) > 0.01
        np.testing.assert_allclose(jax.jit(jax.grad(end))(0.7), numeric, rtol=1e-6)
        forward = jax.jit(lambda weight: jax.jvp(end, (weight,), (1.0,))[1])
        np.testing.assert_allclose(forward(0.7), numeric, rtol=1e-6)
