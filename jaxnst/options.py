"""Command-line options made of the config dataclasses, and the recipe that they make."""

import argparse
import dataclasses
import math
import typing
from typing import Any, Literal

from jaxnst.objective import LossWeights, ObjectiveConfig
from jaxnst.presets import PRESETS, preset
from jaxnst.transfer_config import TransferConfig

FLOAT32_MAX = 3.4028234e38


def positive_int(text: str) -> int:
    """The type of an option: a positive integer."""
    number = int(text) if text.strip().isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return number


def any_int(text: str) -> int:
    """The type of an option: an integer."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, not {text!r}") from None


def number(text: str) -> float:
    """The type of an option: a finite number, 0 or more."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= FLOAT32_MAX:  # never true of nan
        raise argparse.ArgumentTypeError(f"must be a finite number, 0 or more, not {text!r}")
    return number


def _add_config_options(parser: Any, config: type) -> None:
    """An option for each field of a config's dataclass. The defaults are the preset's."""
    hints = typing.get_type_hints(config)
    for entry in dataclasses.fields(config):
        hint, flag = hints[entry.name], "--" + entry.name.replace("_", "-")
        kind: dict[str, Any]
        if dataclasses.is_dataclass(hint):
            _add_config_options(parser, typing.cast(type, hint))
            continue
        if hint is bool:
            kind = {"action": argparse.BooleanOptionalAction}
        elif typing.get_origin(hint) is Literal:
            kind = {"choices": typing.get_args(hint)}
        elif typing.get_origin(hint) is tuple:
            kind = {"nargs": "+", "metavar": "LAYER"}
        elif hint in (int, int | None):
            kind = {"type": any_int if entry.name == "seed" else positive_int, "metavar": "N"}
        else:
            kind = {"type": number, "metavar": "X"}
        parser.add_argument(
            flag, dest=entry.name, default=None, help=entry.metadata.get("help"), **kind
        )


def add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Add `--preset` and an option for each number that may stand in place of the preset's."""
    parser.add_argument(
        "--preset", default="default", help=f"the recipe: {', '.join(PRESETS)} (%(default)s)"
    )
    group = parser.add_argument_group("in place of what the preset says")
    for name in ("content_weight", "style_weight", "tv_weight"):
        flag = "--" + name.replace("_", "-")
        group.add_argument(flag, type=number, metavar="X", help="coefficient in the loss")
    _add_config_options(group, TransferConfig)


def recipe(options: argparse.Namespace) -> tuple[TransferConfig, LossWeights]:
    """The preset, with the options that were given in its place.

    A command's own defaults are in `options.recipe_defaults`, by the names of the fields.
    """
    config, weights = preset(options.preset)
    given = getattr(options, "recipe_defaults", {}) | {
        k: v for k, v in vars(options).items() if v is not None
    }

    def replace(old: Any) -> Any:
        names = {entry.name for entry in dataclasses.fields(old)}
        return dataclasses.replace(old, **{k: v for k, v in given.items() if k in names})

    objective: ObjectiveConfig = replace(config.objective)
    config = dataclasses.replace(replace(config), objective=objective)
    weights = weights._replace(
        **{name: given[f"{name}_weight"] for name in ("content", "style", "tv")
           if f"{name}_weight" in given}
    )  # fmt: skip
    # A layer that the preset does not know counts like the mean of those that it does.
    for field in ("content_layers", "style_layers"):
        known = getattr(weights, field)
        usual = sum(known.values()) / len(known)
        chosen = {layer: known.get(layer, usual) for layer in getattr(objective, field)}
        weights = weights._replace(**{field: chosen})
    return config, weights
