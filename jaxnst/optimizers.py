"""Settings of optimisers for images in [0, 1]: pytrees whose numbers are traced."""

import math
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import export

from jaxnst.lbfgs import lbfgs
from jaxnst.minimize import check_num_steps
from jaxnst.preconditioners import circular_preconditioner, spectral_preconditioner

# `jax.export` needs Adam's states, with and without a schedule; optax does not register them.
for _state in (optax.ScaleByAdamState, optax.ScaleByScheduleState, optax.EmptyState):
    with suppress(ValueError):  # the user or a newer optax has registered it
        export.register_namedtuple_serialization(_state, serialized_name=f"optax.{_state.__name__}")


def _settings(cls: Any) -> Any:
    """Make a frozen dataclass a pytree, whose fields are leaves unless they have static=True."""
    fields = {name: f.metadata.get("static", False) for name, f in cls.__dataclass_fields__.items()}
    return jax.tree_util.register_dataclass(
        cls,
        data_fields=[name for name, static in fields.items() if not static],
        meta_fields=[name for name, static in fields.items() if static],
    )


@_settings
@dataclass(frozen=True)
class Lbfgs:
    """Settings of L-BFGS for images in [0, 1]: a pytree whose numbers are traced.

    It departs from Gatys' L-BFGS in its spectral preconditioner and in step lengths that suit
    pixels; benchmarks/lbfgs.py measures what they gain.

    Attributes:
        learning_rate: the step tried first along each direction.
        first_step: root mean square of the first step.
        max_step: root mean square that no step exceeds.
        initial_scaling: factor of the initial inverse Hessian.
        memory: number of curvature pairs kept; each takes the memory of two images.
        wrap: whether the image tiles the plane; a `TransferConfig` sets it by its objective.

    >>> Lbfgs(memory=5).learning_rate
    1.0
    """

    learning_rate: Any = field(default=1.0, metadata={"help": "learning rate of images in [0, 1]"})
    first_step: Any = 0.01
    max_step: Any = 0.05
    initial_scaling: Any = 2.0
    memory: int = field(
        default=20, metadata={"help": "curvature pairs that L-BFGS keeps", "static": True}
    )
    wrap: bool = field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        for name in ("learning_rate", "first_step", "max_step", "initial_scaling"):
            _check_number(name, getattr(self, name), above=0)
        check_num_steps("memory", self.memory)

    def make(self) -> optax.GradientTransformationExtraArgs:
        """Return the optax transformation."""
        return lbfgs(
            self.learning_rate,
            memory=self.memory,
            first_step=self.first_step,
            max_step=self.max_step,
            initial_scaling=self.initial_scaling,
            preconditioner=circular_preconditioner if self.wrap else spectral_preconditioner,
        )


@_settings
@dataclass(frozen=True)
class Adam:
    """Settings of Adam (Kingma & Ba 2015) for images in [0, 1]: a pytree with traced numbers.

    Attributes:
        learning_rate: of each step.
        b1: decay of the first moment.
        b2: decay of the second moment.
        eps: number added to the root of the second moment.
        average: decay of the moving average of images that is then the result; 0 for none.
        clamp: whether the image is kept in [0, 1] after each step.

    >>> Adam(learning_rate=0.05).b2
    0.999
    """

    learning_rate: Any = field(default=0.02, metadata={"help": "learning rate of images in [0, 1]"})
    b1: Any = field(default=0.9, metadata={"help": "decay of Adam's first moment"})
    b2: Any = field(default=0.999, metadata={"help": "decay of Adam's second moment"})
    eps: Any = 1e-8
    average: Any = field(
        default=0.0, metadata={"help": "decay of the average of images that Adam then returns"}
    )
    clamp: bool = field(
        default=False, metadata={"help": "keep Adam's image in [0, 1]", "static": True}
    )

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps"):
            _check_number(name, getattr(self, name), above=0)
        for name in ("b1", "b2", "average"):
            _check_number(name, getattr(self, name), least=0, below=1)

    def make(self) -> optax.GradientTransformation:
        """Return the optax transformation."""
        adam = optax.adam(self.learning_rate, b1=self.b1, b2=self.b2, eps=self.eps)
        return optax.chain(adam, _clamp_to_unit()) if self.clamp else adam


def _clamp_to_unit() -> optax.GradientTransformation:
    """Shorten updates so that all values stay in [0, 1]."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda u, p: jnp.clip(p + u, 0, 1) - p, updates, params
        )
    )


def _check_number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
) -> None:
    """Raise ValueError unless a number is in range. Arrays pass, traced or with lanes."""
    if not isinstance(value, int | float):
        return
    if not (math.isfinite(value) and above < value < below and value >= least):
        wanted = "a positive number" if above == 0 else "a number from 0 to less than 1"
        raise ValueError(f"{name} must be {wanted}, not {value!r}")


#: The settings of an optimiser by its name on the command line.
OPTIMIZERS: dict[str, Any] = {"lbfgs": Lbfgs, "adam": Adam}
