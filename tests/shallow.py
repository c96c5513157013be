"""A transfer whose network is one block, soon compiled, for tests of what goes on around it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxnst import (
    Content,
    Lbfgs,
    LossWeights,
    Objective,
    Penalty,
    Status,
    Style,
    TransferConfig,
)

STYLE = Style(("relu1_1", "pool1"))
OBJECTIVE = Objective({"content": Content(("pool1",)), "style": STYLE, "tv": Penalty()})
WEIGHTS = LossWeights.ones(OBJECTIVE).replace(content=10.0, style=0.1, tv=0.0)
WEIGHTS = WEIGHTS.replace_layers(style={"relu1_1": 2e-4, "pool1": 6e-5})
SHORT = TransferConfig(OBJECTIVE, optimizer=Lbfgs(memory=5), num_steps=4)
PYRAMID = replace(SHORT, min_size=24, num_steps=(6, 4))
#: The names of the programs compiled so far, or read from JAX's cache.
COMPILED: list[str] = []


def _listen(event: str, duration: float, **details: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(str(details.get("fun_name", "?")))


jax.monitoring.register_event_duration_secs_listener(_listen)


def check_result(result, shape, num_steps, terms=("content", "style", "tv")):
    assert isinstance(result.image, jax.Array)
    assert result.image.shape == shape and result.image.dtype == jnp.float32
    assert float(result.image.min()) >= 0 and float(result.image.max()) <= 1
    assert result.status is Status.OK
    assert list(result.history) == ["evaluation", "seconds", "size", "loss", *sorted(terms)]
    assert {values.shape for values in result.history.values()} == {(num_steps,)}
    np.testing.assert_array_equal(result.history["evaluation"], np.arange(1, num_steps + 1))
    total = sum(result.history[name] for name in terms)
    np.testing.assert_allclose(result.history["loss"], total, rtol=1e-5)


def pick(tree, lane):
    """One lane of weights or settings of which some have lanes."""
    return jax.tree.map(lambda leaf: leaf[lane] if jnp.ndim(leaf) else leaf, tree)


def check_lane(together, alone, *, image=1e-4, loss=1e-3):
    """Mean difference of the pictures and relative difference of the loss curves."""
    assert together.status is alone.status
    assert list(together.history) == list(alone.history)
    for name in ("evaluation", "size"):
        np.testing.assert_array_equal(together.history[name], alone.history[name])
    size = alone.history["loss"].min()  # a content term may start at 0
    for name in ("loss", "content", "style", "tv"):
        np.testing.assert_allclose(
            together.history[name], alone.history[name], rtol=loss, atol=loss * size
        )
    assert float(jnp.abs(together.image - alone.image).mean()) < image
