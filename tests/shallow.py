"""A transfer whose network is one block, soon compiled, for tests of what goes on around it."""

import jax

from jaxnst import Content, LossWeights, Objective, Penalty, Style

STYLE = Style(("relu1_1", "pool1"))
OBJECTIVE = Objective({"content": Content(("pool1",)), "style": STYLE, "tv": Penalty()})
WEIGHTS = LossWeights.ones(OBJECTIVE).replace(content=10.0, style=0.1, tv=0.0)
WEIGHTS = WEIGHTS.replace_layers(style={"relu1_1": 2e-4, "pool1": 6e-5})
#: The names of the programs compiled so far, or read from JAX's cache.
COMPILED: list[str] = []


def _listen(event: str, duration: float, **details: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(str(details.get("fun_name", "?")))


jax.monitoring.register_event_duration_secs_listener(_listen)
