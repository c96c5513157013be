"""The padding of convolutions beside that of training, which tests/test_vgg.py compares too."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from naive_vgg19 import assert_close, vgg19

from jaxnst.convolution import PADDINGS
from jaxnst.vgg import extract_features


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_side_of_one_pixel_can_be_padded(params, content, padding):
    found = extract_features(content[:1, :3], params, layers=("relu1_2",), padding=padding)
    assert_close(found, vgg19(content[:1, :3], params, "max", ("relu1_2",), padding)[0])


def test_with_circular_padding_a_shift_of_the_image_shifts_the_features(params, content):
    options = {"layers": ("relu1_1", "relu5_1"), "pooling": "average", "padding": "circular"}
    extract = jax.jit(partial(extract_features, **options))
    image = content[:48, :64]
    plain, shifted = extract(image, params), extract(jnp.roll(image, (16, -32), (0, 1)), params)
    for layer, shift in (("relu1_1", (16, -32)), ("relu5_1", (1, -2))):
        assert_close(shifted[layer], jnp.roll(plain[layer], shift, (0, 1)), 1e-4)


def test_no_padding_is_computed_where_none_is_asked_for(params):
    def program(**options):
        extract = partial(extract_features, params=params, layers=("relu2_1",), **options)
        return str(jax.make_jaxpr(extract)(jnp.zeros((16, 16, 3))))

    assert program() == program(padding="zero") and "pad[" not in program()
    assert program(padding=("circular", "zero")) != program()
