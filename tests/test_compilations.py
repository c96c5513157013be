"""What may vary between runs without anything being compiled again."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest
from shallow import COMPILED, OBJECTIVE, SHORT, WEIGHTS

from jaxnst import Adam, Content, Lbfgs, minimize, style_transfer

CONFIG = replace(SHORT, init="noise", num_steps=3)


@pytest.fixture(scope="module")
def transfer(small, paint, params):
    def run(config=CONFIG, weights=WEIGHTS, flip=False):
        """The names of what was compiled, and the history."""
        pictures = (small[::-1] + 0, paint[::-1] + 0) if flip else (small, paint)
        for picture in pictures:
            picture.block_until_ready()
        before = len(COMPILED)
        result = style_transfer(*pictures, params=params, weights=weights, config=config)
        return COMPILED[before:], result.history

    run(replace(CONFIG, num_steps=5))
    return run


@pytest.mark.parametrize(
    "weights",
    [
        WEIGHTS.replace(style=77.0),
        WEIGHTS.replace(style=77),
        WEIGHTS.replace(tv=1),
        WEIGHTS.replace_layers(style={"relu1_1": 0.9, "pool1": 0.3}),
        WEIGHTS.replace_layers(style={"pool1": 1, "relu1_1": 0}),
    ],
    ids=["float", "int", "zero", "layer", "int layers"],
)
def test_weights_compile_nothing(transfer, weights):
    base = transfer()[1]
    compiled, history = transfer(weights=weights)
    assert compiled == []
    assert any(history[term][0] != base[term][0] for term in WEIGHTS.scales)


@pytest.mark.parametrize("num_steps", [1, 4, 9])
def test_number_of_steps_compiles_nothing(transfer, num_steps):
    compiled, history = transfer(replace(CONFIG, num_steps=num_steps))
    assert compiled == []
    assert len(history["loss"]) == num_steps


def test_other_pictures_of_the_same_shapes_compile_nothing(transfer):
    base = transfer()[1]
    compiled, history = transfer(flip=True)
    assert compiled == []
    assert history["loss"][0] != base["loss"][0]


def test_an_equal_config_compiles_nothing(transfer):
    equal = replace(OBJECTIVE, terms={**OBJECTIVE.terms, "content": Content(["pool1"])})
    assert transfer(replace(CONFIG, objective=equal))[0] == []


def test_numbers_of_the_optimizer_compile_nothing(transfer):
    compiled, history = transfer(
        replace(CONFIG, optimizer=Lbfgs(learning_rate=0.5, first_step=0.02, max_step=1, memory=5))
    )
    assert compiled == []
    assert history["loss"][1] != transfer()[1]["loss"][1]


def test_pooling_and_memory_compile(transfer):
    assert transfer(replace(CONFIG, objective=replace(OBJECTIVE, pooling="average")))[0] != []
    assert transfer(replace(CONFIG, optimizer=Lbfgs(memory=4)))[0] != []


def test_minimize_compiles_nothing_for_other_rates_decays_and_counts():
    value_and_grad = jax.value_and_grad(lambda x: jnp.sum((x - 3.0) ** 2))
    x0, histories = jnp.full(4, 0.0), []  # weakly typed, as no step's result is
    for optimizer, num_steps in [
        (Adam(learning_rate=0.02), 4),
        (Adam(learning_rate=0.03), 4),
        (Adam(learning_rate=0.03, b1=0.5, b2=0.9, average=0.8), 6),
    ]:
        before = len(COMPILED)
        history = minimize(value_and_grad, x0, optimizer=optimizer, num_steps=num_steps).history
        histories.append(history["loss"].tolist())
        new = COMPILED[before:]
        assert new.count("jit(advance)") == 1 if len(histories) == 1 else new == []
    assert histories[0][:3] != histories[1][:3] and len(histories[2]) == 6
