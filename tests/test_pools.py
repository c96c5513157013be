"""The pools against those of flax and NumPy, at odd sides, ties, zeros and nan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import compiled_text, normal, uniform
from naive_vgg19 import assert_close, pool_weights, unpool

from jaxnst.pooling import POOLS, average_pool, l2_pool, max_pool


@pytest.mark.parametrize(
    ("pool", "reference"), [(max_pool, nn.max_pool), (average_pool, nn.avg_pool)]
)
def test_pools_agree_with_those_of_flax_at_odd_sides(content, pool, reference):
    def run(x, pool):
        pooled, transpose = jax.vjp(pool, x)
        return pooled, *transpose(jnp.cos(1e3 * pooled))

    x = content[:51, :67] + uniform(51, 67, 3)  # without ties
    assert_close(run(x, pool), run(x, lambda x: reference(x, (2, 2), (2, 2))), 1e-4)


def test_max_pool_gives_its_gradient_to_the_first_of_the_largest():
    x = jnp.array([[1, 5, 2, 2, 9], [5, 0, 2, 2, 9], [0, 0, -3, -1, 9], [0, 4, -2, -4, 9]])
    pooled, transpose = jax.vjp(max_pool, x[:, :, None].astype(jnp.float32))
    np.testing.assert_array_equal(pooled[:, :, 0], [[5, 2], [4, -1]])
    (gradient,) = transpose(jnp.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None])
    expected = [[0, 1, 2, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 4, 0], [0, 3, 0, 0, 0]]
    np.testing.assert_array_equal(gradient[:, :, 0], expected)


@pytest.mark.parametrize("name", POOLS)
def test_pools_and_their_gradients_agree_with_numpy(name):
    x = normal(2, 9, 12, 3)
    pooled, transpose = jax.vjp(jax.vmap(POOLS[name]), x)
    (gradient,) = transpose(jnp.cos(pooled))
    for lane in range(2):
        corners, weights = pool_weights(np.asarray(x[lane], np.float64), name)
        assert_close(pooled[lane], (corners * weights).sum(0))
        assert_close(gradient[lane], unpool(np.cos(pooled[lane]), x[lane], weights))


def test_the_l2_pool_has_finite_gradients_where_nothing_is_active():
    x = jnp.zeros((4, 4, 1)).at[0, 0].set(3.0)
    with jax.debug_nans(True):
        pooled, transpose = jax.vjp(l2_pool, x)
        (gradient,) = transpose(jnp.ones_like(pooled))
    np.testing.assert_array_equal(pooled[:, :, 0], [[3, 0], [0, 0]])
    np.testing.assert_array_equal(gradient, x / 3)


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_pools_keep_nan(pool):
    for place in range(4):
        x = jnp.array([1.0, 3.0, 4.0, 2.0]).at[place].set(jnp.nan).reshape(2, 2, 1)
        assert np.isnan(pool(x)).all()


@pytest.mark.parametrize("name", POOLS)
def test_a_side_of_one_leaves_nothing(name):
    pooled, transpose = jax.vjp(POOLS[name], jnp.ones((1, 6, 4)))
    assert pooled.shape == (0, 3, 4)
    np.testing.assert_array_equal(transpose(pooled)[0], np.zeros((1, 6, 4)))


@pytest.mark.parametrize("name", POOLS)
def test_a_gradient_places_the_pixels_of_a_block_at_once(name):
    x, y = normal(8, 6, 4), normal(4, 3, 4)
    text = compiled_text(lambda x, y: jax.vjp(POOLS[name], x)[1](y), x, y)
    assert " pad(" not in text  # one for each pixel, added up, is slow
