"""The config of a transfer: what it refuses, and that it is static."""

from dataclasses import replace

import jax
import optax
import pytest

from jaxnst import Adam, Lbfgs, TransferConfig, preset

OBJECTIVE = preset("pastiche").config.objective


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("objective", None, TypeError),
        ("init", "black", ValueError),
        ("optimizer", "sgd", TypeError),
        ("num_steps", 0, ValueError),
        ("num_steps", 1.5, ValueError),
        ("num_steps", True, ValueError),
        ("num_steps", (), ValueError),
        ("num_steps", (3, 0), ValueError),
        ("min_size", 0, ValueError),
        ("scale_factor", 1.0, ValueError),
        ("scale_factor", float("nan"), ValueError),
        ("seed", 1.5, TypeError),
        ("seed", True, TypeError),
        ("seed", 2**32, ValueError),
    ],
)
def test_a_config_refuses(name, value, error):
    with pytest.raises(error, match=name) as caught:
        TransferConfig(**{"objective": OBJECTIVE, name: value})
    assert len(str(caught.value).splitlines()) == 1


def test_a_config_is_a_static_argument():
    config = TransferConfig(OBJECTIVE, num_steps=[5, 3])
    assert config.num_steps == config.steps == (5, 3)
    assert TransferConfig(OBJECTIVE, num_steps=7).steps == (7,)
    equal = TransferConfig(OBJECTIVE, num_steps=(5, 3))
    assert config == equal and hash(config) == hash(equal)
    assert jax.tree.leaves(config) == []
    doubled = jax.jit(lambda x, config: x * config.steps[0])
    assert doubled(2.0, config) == 10 and doubled(2.0, replace(config, num_steps=1)) == 2


@pytest.mark.parametrize("optimizer", [Adam(), Lbfgs(memory=3), optax.sgd(0.1)], ids=type)
def test_any_optimizer_belongs_to_a_config(optimizer):
    assert TransferConfig(OBJECTIVE, optimizer=optimizer).optimizer is optimizer
