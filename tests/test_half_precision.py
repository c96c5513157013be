"""Pictures in half precision."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import shallow
from helpers import uniform

from jaxnst import minimize, style_transfer

KEY = jax.random.key(1)
CONTENT, STYLE, START = np.asarray(uniform(3, 24, 32, 3))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(
    "start", [{}, {"init": "noise"}, {"init": "style"}, {"noise_share": 0.5}], ids=str
)
def test_a_transfer_is_in_float32_from_the_first_image_on(dtype, start, params):
    config = replace(shallow.SHORT, **start)
    half = [jnp.asarray(picture, dtype) for picture in (CONTENT, STYLE, START)]
    whole = [picture.astype(jnp.float32) for picture in half]
    found, expected = (
        style_transfer(
            content,
            style,
            initial_image=first if "noise_share" in start else None,
            weights=shallow.WEIGHTS,
            config=config,
            params=params,
        )
        for content, style, first in (half, whole)
    )
    shallow.check_result(found, CONTENT.shape, 4)
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.history["loss"], expected.history["loss"])
    assert found.history["loss"][-1] < found.history["loss"][0]


def test_float16_is_refused_where_steps_would_vanish():
    half, options = jnp.ones(2, jnp.float16), {"optimizer": optax.sgd(0.1), "num_steps": 1}
    with pytest.raises(TypeError, match="not float16.*take x0.astype"):
        minimize(jax.value_and_grad(jnp.sum), half, **options)
