"""Programs for a CPU are compiled for less memory, with the same results."""

from functools import partial

import jax
import numpy as np

from jaxnst import compute_targets, loss_and_grad, preset
from jaxnst.compilation import compiled


def test_a_compiled_loss_and_gradient_need_less_memory(content, style, params):
    config, weights = preset("default")
    sources = {"content": content, "style": style}
    targets = compute_targets(sources, params, objective=config.objective)
    function = partial(loss_and_grad, objective=config.objective)
    arguments = content, params, targets, weights
    plain, ours = (c(function).lower(*arguments).compile() for c in (jax.jit, compiled))
    needs = [p.memory_analysis().temp_size_in_bytes for p in (plain, ours)]
    assert needs[1] < 0.8 * needs[0]
    for one, other in zip(
        jax.tree.leaves(plain(*arguments)), jax.tree.leaves(ours(*arguments)), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6 * np.abs(one).max())


def test_buffers_can_be_donated():
    x = jax.numpy.ones(4)
    assert float(compiled(lambda x: x + 1, donate=(0,))(x).sum()) == 8 and x.is_deleted()
