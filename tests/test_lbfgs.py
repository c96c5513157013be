"""L-BFGS against a naive one and on a nasty function; its preconditioner."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
from helpers import double_precision

import jaxnst
from jaxnst import lbfgs
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


@pytest.mark.parametrize("seed", range(4))
def test_never_climbs_on_a_nasty_function(seed):
    def nasty(x):
        return jnp.sum(0.05 * x**2 + 3 * jnp.cos(4 * x)) + jnp.sin(jnp.sum(x) * 3)

    x0 = jax.random.normal(jax.random.key(seed), (12,)) * 3
    _, values, accepted, *_ = trajectory(nasty, x0, lbfgs(), 80)
    assert (values[1:] > np.minimum.accumulate(values)[:-1]).any()  # some were refused
    assert (np.diff(accepted) <= 0).all()
    assert accepted[-1] < values[0]
    np.testing.assert_array_equal(accepted, np.minimum.accumulate(values))


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
            _, state = optimizer.update(grad, state, start, value=value)
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
        x, state = jnp.zeros(4), optimizer.init(jnp.zeros(4))
        for _ in range(3):
            value, grad = jax.value_and_grad(lambda x: jnp.sum((x - 1) ** 2))(x)
            step, state = optimizer.update(grad, state, x, value=value)
            x = x + step
        return x

    numbers = jnp.array([[1.0, 1e-4, 0.1, 0.2, 2.0], [0.5, 1e-3, 0.2, 0.3, 1.0]])
    lanes = jax.jit(jax.vmap(lambda row: end(*row)))(numbers)
    for lane, row in zip(lanes, numbers.tolist(), strict=True):
        np.testing.assert_allclose(lane, jax.jit(lambda row=row: end(*row))(), rtol=1e-5)


# Operation by operation, it would take seconds to compile.
precondition = jax.jit(jaxnst.spectral_preconditioner)

SHAPES = [(8, 8, 3), (7, 12, 3), (1, 5, 2), (1, 1, 1)]


def noise(shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_spectral_preconditioner_is_what_scipy_makes(shape):
    x, (height, width) = np.asarray(noise(shape)), shape[:2]
    gain = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            gain[i, j] = 1 / (np.hypot(i / (2 * height), j / (2 * width)) + 0.01)
    spectrum = scipy.fft.dctn(x, axes=(0, 1), norm="ortho") * (gain / gain.mean())[..., None]
    expected = scipy.fft.idctn(spectrum, axes=(0, 1), norm="ortho")
    np.testing.assert_allclose(precondition(x), expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_the_spectral_preconditioner_is_symmetric_and_positive_definite(shape):
    size = int(np.prod(shape))
    unit = jnp.eye(size).reshape(size, *shape)
    matrix = np.asarray(jax.jit(jax.vmap(precondition))(unit)).reshape(size, size)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues.min() > 0.1
    np.testing.assert_allclose(eigenvalues.mean(), 1, rtol=1e-4)


def test_the_spectral_preconditioner_enlarges_large_shapes():
    _, x = np.mgrid[:32, :32] + 0.5
    waves = [np.cos(np.pi * k * x / 32)[..., None] for k in (1, 4, 31)]
    norms = [float(jnp.linalg.norm(precondition(jnp.asarray(w)))) for w in waves]
    assert norms[0] > 2 * norms[1] > 8 * norms[2]


def test_the_spectral_preconditioner_ties_no_channels_and_no_edges():
    dot = np.zeros((32, 32, 3), np.float32)
    dot[0, 16, 1] = 1
    out = np.asarray(precondition(jnp.asarray(dot)))
    assert np.abs(out[..., [0, 2]]).max() == 0
    assert abs(out[-1, 16, 1]) < 0.02 * out[0, 16, 1]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_circular_preconditioner_is_what_numpy_makes(shape):
    x = np.asarray(noise(shape))
    f = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    gain = 1 / (f + 0.01)
    spectrum = np.fft.fft2(x, axes=(0, 1)) * (gain / gain.mean())[..., None]
    expected = np.fft.ifft2(spectrum, axes=(0, 1)).real
    circular = jax.jit(jaxnst.circular_preconditioner)
    np.testing.assert_allclose(circular(x), expected, atol=1e-5)
    shifted = circular(jnp.roll(x, (3, 2), (0, 1)))
    np.testing.assert_allclose(shifted, np.roll(expected, (3, 2), (0, 1)), atol=1e-5)


def test_a_config_preconditions_as_its_image_tiles():
    objective = jaxnst.Objective({"tv": jaxnst.Penalty()}, padding="circular")
    config = jaxnst.TransferConfig(objective)
    assert config.optimizer == jaxnst.Lbfgs(wrap=True)
    plain = dataclasses.replace(config, objective=dataclasses.replace(objective, padding="zero"))
    assert plain.optimizer == jaxnst.Lbfgs()


def test_the_spectral_preconditioner_is_its_own_derivative():
    x, v = noise((6, 9, 3)), noise((6, 9, 3), 1)
    _, tangent = jax.jvp(precondition, (x,), (v,))
    np.testing.assert_allclose(tangent, precondition(v), atol=1e-4)
    with double_precision():
        assert precondition(jnp.ones((4, 4, 3), jnp.float64)).dtype == jnp.float64
