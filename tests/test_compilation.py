"""Programs for a CPU are compiled for less memory, with the same results."""

import sys
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from shallow import COMPILED, SHORT, WEIGHTS

from jaxnst import compilation, compute_targets, loss_and_grad, preset, style_transfer
from jaxnst.compilation import compiled, make_room, share_of_mappings
from jaxnst.pyramid import resize


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


@pytest.mark.parametrize(("share", "again"), [(0.4, 0), (0.6, 1)])
def test_programs_are_compiled_again_where_there_was_no_room(monkeypatch, share, again):
    program = compiled(lambda x: x * 3)
    x = jax.numpy.ones(4)
    program(x)
    monkeypatch.setattr(compilation, "share_of_mappings", lambda: share)
    make_room()
    before = len(COMPILED)
    assert float(program(x).sum()) == 12 and len(COMPILED) == before + again


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not count mappings")
def test_transfers_of_many_sizes_leave_room(monkeypatch, small, params):
    def taken(height):
        image = resize(small, height, 48)
        style_transfer(image, image, params=params, weights=WEIGHTS, config=config)
        return share_of_mappings()

    config = replace(SHORT, num_steps=1)
    first, second = taken(16), taken(17)
    most = second + 1.5 * (second - first)
    monkeypatch.setattr(compilation, "share_of_mappings", lambda: 0.5 * share_of_mappings() / most)
    assert max(map(taken, range(18, 22))) < most + 1.5 * (second - first)
