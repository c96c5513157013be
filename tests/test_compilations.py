"""What may vary between transfers without anything being compiled again."""

from dataclasses import replace

import jax
import pytest

from jaxnst import LossWeights, ObjectiveConfig, TransferConfig, style_transfer

COMPILED = []


def _listen(event, duration, **details):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(details.get("fun_name", "?"))


jax.monitoring.register_event_duration_secs_listener(_listen)

CONFIG = TransferConfig(
    ObjectiveConfig(content_layers=("relu2_1",), style_layers=("relu1_1", "relu2_1")),
    init="noise",
    num_steps=3,
    memory=3,
)
WEIGHTS = LossWeights(1.0, 10.0, 0.1, {"relu2_1": 1.0}, {"relu1_1": 0.2, "relu2_1": 0.3})


@pytest.fixture(scope="module")
def transfer(content, style, params):
    content, style = content[:32, :40], style[:40, :32]

    def run(config=CONFIG, weights=WEIGHTS, flip=False):
        """The names of what was compiled, and the history."""
        pictures = (content[::-1] + 0, style[::-1] + 0) if flip else (content, style)
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
        WEIGHTS._replace(style=77.0),
        WEIGHTS._replace(style=77),
        WEIGHTS._replace(tv=0.0),
        WEIGHTS._replace(tv=0),
        WEIGHTS._replace(content=0.25),
        WEIGHTS._replace(style_layers={"relu1_1": 0.9, "relu2_1": 0.3}),
        WEIGHTS._replace(style_layers={"relu2_1": 1, "relu1_1": 0}),
    ],
    ids=["style", "int style", "tv", "int tv", "content", "layer", "int layers"],
)
def test_weights_compile_nothing(transfer, weights):
    base = transfer()[1]
    compiled, history = transfer(weights=weights)
    assert compiled == []
    assert any(history[term][0] != base[term][0] for term in ("content", "style", "tv"))


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
    objective = ObjectiveConfig(content_layers=["relu2_1"], style_layers=["relu1_1", "relu2_1"])
    assert transfer(replace(CONFIG, objective=objective))[0] == []


def test_pooling_compiles(transfer):
    objective = replace(CONFIG.objective, pooling="average")
    assert transfer(replace(CONFIG, objective=objective))[0] != []
