"""All algorithms against a plain loop in float64, and each transformation against single calls."""

import os
import subprocess
import sys
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import compiled_text, normal
from jax import export
from naive_vgg19 import conv3x3 as naive
from naive_vgg19 import conv3x3_by_kernel, conv3x3_by_x

from jaxnst.compilation import compiled
from jaxnst.convolution import PADDINGS, conv3x3, direct_conv3x3, patches_conv3x3
from jaxnst.winograd import winograd_conv3x3

LARGE, SMALL = (41, 40, 256), (31, 33, 256)  # by Winograd's filtering and by patches, on a CPU


@pytest.fixture
def kernel(params):
    return params["conv3_2"]["kernel"]


def noise(shape, seed=3, dtype=jnp.float32):
    return normal(*shape, seed=seed, dtype=dtype)


def assert_close(found, expected, tolerance):
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.shape(one) == np.shape(other)
        assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (4, 4), (5, 8), (12, 3), (33, 35)])
@pytest.mark.parametrize("algorithm", [conv3x3, direct_conv3x3, winograd_conv3x3, patches_conv3x3])
def test_every_algorithm_agrees_with_a_plain_loop(kernel, algorithm, shape):
    x = noise((*shape, 256))
    assert_close(jax.jit(algorithm)(x, kernel), naive(x, kernel), 2e-5)


@pytest.mark.parametrize("shape", [LARGE, SMALL])
def test_derivatives_in_both_modes_agree_with_a_plain_loop(kernel, shape):
    x, dx, y = noise(shape), noise(shape, 4), noise(shape, 5)
    primal, transpose = jax.vjp(conv3x3, x, kernel)
    assert_close(primal, naive(x, kernel), 2e-5)
    assert_close(jax.jit(transpose)(y), (conv3x3_by_x(y, kernel), conv3x3_by_kernel(y, x)), 2e-5)
    tangent = jax.jit(lambda *t: jax.jvp(conv3x3, (x, kernel), t)[1])(dx, kernel[::-1])
    assert_close(tangent, naive(dx, kernel) + naive(x, kernel[::-1]), 2e-5)


def loss(x, kernel, convolve=conv3x3):
    return jnp.sum(jnp.sin(convolve(x, kernel)))


TRANSFORMATIONS = {
    "value": lambda convolve, x, kernel: convolve(x, kernel),
    "gradient": lambda convolve, x, kernel: jax.grad(loss, (0, 1))(x, kernel, convolve),
    "hessian": lambda convolve, x, kernel: jax.hessian(loss)(x[:2, :2], kernel, convolve),
    "jacfwd": lambda convolve, x, kernel: jax.jacfwd(convolve, (0, 1))(x[:2, :2], kernel),
    "jacrev": lambda convolve, x, kernel: jax.jacrev(convolve, (0, 1))(x[:2, :2], kernel),
    "jvp of grad": lambda convolve, x, kernel: jax.jvp(
        lambda x: jax.grad(loss)(x, kernel, convolve), (x,), (x[::-1],)
    ),
    "grad of jvp": lambda convolve, x, kernel: jax.grad(
        lambda x: jax.jvp(lambda x: loss(x, kernel, convolve), (x,), (x[::-1],))[1]
    )(x),
    "linearize": lambda convolve, x, kernel: jax.linearize(convolve, x, kernel)[1](x, kernel),
    "checkpoint": lambda convolve, x, kernel: jax.grad(
        jax.checkpoint(lambda x: loss(x, kernel, convolve))
    )(x),
    "scan": lambda convolve, x, kernel: jax.grad(
        lambda x: jax.lax.scan(lambda x, _: (jnp.tanh(convolve(x, kernel)), None), x, length=2)[
            0
        ].sum()
    )(x),
}


# Without `jit` these call the primitive by itself, in lanes, and in a checkpoint.
EAGER = "value", "gradient", "jacrev", "checkpoint"
# Shapes of the arguments and the axes of each `vmap`, from the inner to the outer one.
SINGLE = (9, 8, 4), (3, 3, 4, 4), ()
BATCHES = [
    ((2, 9, 8, 4), (3, 3, 4, 4), ((0, None),)),
    ((9, 8, 4), (3, 3, 4, 2, 4), ((None, 3),)),
    ((9, 2, 8, 4), (2, 3, 3, 4, 4), ((1, 0),)),
    ((2, 9, 8, 4), (3, 3, 3, 4, 4), ((0, None), (None, 0))),
    ((3, 2, 9, 8, 4), (2, 3, 3, 4, 4), ((0, 0), (0, None))),
]


@pytest.mark.parametrize(
    ("name", "case"),
    [(name, SINGLE) for name in TRANSFORMATIONS]
    + [(name, case) for name in ("value", "gradient", "jvp of grad") for case in BATCHES],
)
def test_transformations_agree_with_those_of_the_direct_convolution(name, case):
    x_shape, kernel_shape, axes = case

    def run(convolve, x, kernel):
        function = partial(TRANSFORMATIONS[name], convolve)
        for pair in axes:
            function = jax.vmap(function, pair)
        return function(x, kernel)

    arguments = noise(x_shape), noise(kernel_shape) / 4
    expected = jax.jit(partial(run, direct_conv3x3))(*arguments)
    assert_close(jax.jit(partial(run, conv3x3))(*arguments), expected, 1e-5)
    if case is SINGLE and name in EAGER:
        assert_close(run(conv3x3, *arguments), expected, 1e-5)


def in_a_ring(x, kernel, padding):
    ringed = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), PADDINGS[padding])
    return direct_conv3x3(ringed, kernel)[1:-1, 1:-1]


# The rules of the transformations do not look at the padding: one padding goes through all of them,
# and each other one through those of which the others are made. The test before has zeros.
@pytest.mark.parametrize(
    ("name", "padding"),
    [(name, "reflect") for name in TRANSFORMATIONS]
    + [
        (name, padding)
        for name in ("value", "gradient", "hessian")
        for padding in ("replicate", "circular")
    ],
)
def test_transformations_with_each_padding_agree_with_those_of_a_larger_picture(name, padding):
    x, kernel = noise((9, 8, 4)), noise((3, 3, 4, 4)) / 4
    run = partial(jax.jit, static_argnums=0)(TRANSFORMATIONS[name])
    expected = run(partial(in_a_ring, padding=padding), x, kernel)
    assert_close(run(partial(conv3x3, padding=padding), x, kernel), expected, 1e-5)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", [LARGE, SMALL, (2, 1, 256), (1, 2, 256)])
def test_derivatives_with_each_padding_agree_at_any_algorithm(kernel, shape, padding):
    x, y = noise((2, *shape)), noise((2, *shape), 5)

    @jax.jit
    @jax.vmap
    def run(x, y):
        value, transpose = jax.vjp(partial(conv3x3, padding=padding), x, kernel)
        return value, transpose(y)

    def expected(x, y):
        by_x, by_kernel = conv3x3_by_x(y, kernel, padding), conv3x3_by_kernel(y, x, padding)
        return naive(x, kernel, padding), (by_x, by_kernel)

    lanes = [expected(*lane) for lane in zip(x, y, strict=True)]
    assert_close(run(x, y), jax.tree.map(lambda *lanes: np.stack(lanes), *lanes), 2e-5)


@pytest.mark.parametrize("shape", [LARGE, SMALL])
def test_a_batch_is_as_exact_as_a_single_image_at_any_algorithm(kernel, shape):
    x = noise((2, *shape))
    together = jax.jit(jax.vmap(jax.value_and_grad(loss), (0, None)))(x, kernel)
    single = [jax.jit(jax.value_and_grad(loss))(image, kernel) for image in x]
    assert_close(together, jax.tree.map(lambda *lanes: jnp.stack(lanes), *single), 1e-6)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
@pytest.mark.parametrize(
    ("shape", "dtype", "direct_on_cpu"),
    [(LARGE, "float32", False), (SMALL, "float32", False), (LARGE, "bfloat16", True)],
)
def test_the_platform_of_the_program_chooses(kernel, platform, shape, dtype, direct_on_cpu):
    arguments = noise(shape, dtype=dtype), kernel.astype(dtype)
    for function in (conv3x3, jax.grad(lambda x, kernel: conv3x3(x, kernel).sum())):
        traced = jax.jit(function).trace(*arguments)
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("stablehlo.convolution" in text) == (platform != "cpu" or direct_on_cpu)


def test_one_export_serves_every_platform(kernel):
    x = noise(SMALL)
    exported = export.export(jax.jit(jax.grad(loss)), platforms=("cpu", "cuda", "tpu"))
    assert_close(exported(x, kernel).call(x, kernel), jax.grad(loss)(x, kernel), 1e-6)


def test_a_primitive_is_compiled_where_jit_is_disabled(kernel):
    with jax.disable_jit(), jax.debug_nans(True):
        assert_close(conv3x3(noise(SMALL), kernel), naive(noise(SMALL), kernel), 2e-5)


@pytest.mark.parametrize(
    ("x", "kernel"),
    [
        (np.ones((4, 4, 2), np.float32), np.ones((3, 3, 2, 2), np.float16)),
        (np.ones((4, 4, 2), np.float32), np.ones((3, 3, 3, 2), np.float32)),
        (np.ones((4, 4), np.float32), np.ones((3, 3, 1, 2), np.float32)),
    ],
)
def test_arguments_that_do_not_fit_are_refused(x, kernel):
    with pytest.raises((TypeError, ValueError)):
        conv3x3(x, kernel)


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxnst.convolution import conv3x3

mesh = jax.sharding.Mesh(np.array(jax.devices()), ("rows",))
assert mesh.size == 4
random = np.random.default_rng(0)
x = random.normal(size=(16, 9, 64)).astype(np.float32)
kernel = random.normal(size=(3, 3, 64, 64)).astype(np.float32) / 24  # y is of the order of 1

def grads(x, kernel):
    return jax.grad(lambda x, kernel: jnp.sum(jnp.sin(conv3x3(x, kernel))), (0, 1))(x, kernel)

def check(found, expected):
    for one, other in zip(found, expected):
        assert np.abs(one - other).max() <= 1e-5 * np.abs(other).max()

placed = jax.device_put(x, NamedSharding(mesh, P("rows")))
found = jax.jit(grads)(placed, kernel)
assert found[0].sharding.spec == P("rows")
check(found, grads(x, kernel))

# Each device has rows of its own, without those of its neighbours.
parts = [grads(part, kernel) for part in jnp.split(x, 4)]
expected = jnp.concatenate([part[0] for part in parts]), sum(part[1] for part in parts)
specs = P("rows"), P()
apart = jax.shard_map(grads, mesh=mesh, in_specs=specs, out_specs=specs)
check(jax.jit(apart)(x, kernel), expected)
"""


def test_rows_can_be_spread_over_devices():
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    subprocess.run([sys.executable, "-c", SHARDED], env=environment, check=True)


def test_a_large_gradient_copies_neither_its_kernel_nor_its_products(kernel):
    x = noise(LARGE)
    text = compiled_text(lambda x, kernel, y: jax.vjp(conv3x3, x, kernel)[1](y)[0], x, kernel, x)
    assert " reverse(" not in text
    assert " transpose(" not in text


def test_a_loop_over_large_features_keeps_no_transformed_kernels():
    def temporaries(count):
        def run(x, kernels):
            def step(x, _):
                return reduce(conv3x3, kernels, x), None

            return jax.lax.scan(step, x, length=2)[0]

        shapes = jnp.zeros((92, 92, 256)), [jnp.zeros((3, 3, 256, 256))] * count
        return compiled(run).lower(*shapes).compile().memory_analysis()

    one, three = (temporaries(count).temp_size_in_bytes for count in (1, 3))
    assert three - one < 36 * 256 * 256 * 4  # less than one of them
