"""Both pools against those of flax, at odd sides, ties and nan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from naive_vgg19 import assert_close

from jaxnst.vgg import average_pool, max_pool


@pytest.mark.parametrize(
    ("pool", "reference"), [(max_pool, nn.max_pool), (average_pool, nn.avg_pool)]
)
def test_pools_agree_with_those_of_flax_at_odd_sides(content, pool, reference):
    def run(x, pool):
        pooled, transpose = jax.vjp(pool, x)
        return pooled, *transpose(jnp.cos(1e3 * pooled))

    x = content[:51, :67] + jax.random.uniform(jax.random.key(0), (51, 67, 3))  # without ties
    assert_close(run(x, pool), run(x, lambda x: reference(x, (2, 2), (2, 2))), 1e-4)


def test_max_pool_gives_its_gradient_to_the_first_of_the_largest():
    x = jnp.array([[1, 5, 2, 2, 9], [5, 0, 2, 2, 9], [0, 0, -3, -1, 9], [0, 4, -2, -4, 9]])
    pooled, transpose = jax.vjp(max_pool, x[:, :, None].astype(jnp.float32))
    np.testing.assert_array_equal(pooled[:, :, 0], [[5, 2], [4, -1]])
    (gradient,) = transpose(jnp.array([[1.0, 2.0], [3.0, 4.0]])[:, :, None])
    expected = [[0, 1, 2, 0, 0], [0, 0, 0, 0, 0], [0, 0, 0, 4, 0], [0, 3, 0, 0, 0]]
    np.testing.assert_array_equal(gradient[:, :, 0], expected)


@pytest.mark.parametrize("pool", [max_pool, average_pool])
def test_pools_keep_nan(pool):
    for place in range(4):
        x = jnp.array([1.0, 3.0, 4.0, 2.0]).at[place].set(jnp.nan).reshape(2, 2, 1)
        assert np.isnan(pool(x)).all()
