"""Command-line options made of the recipe's dataclasses, and the recipe that they make."""

import argparse
import dataclasses
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxnst.color import COLORS
from jaxnst.images import Geometry
from jaxnst.loss_weights import LossWeights
from jaxnst.objective import Objective
from jaxnst.optimizers import OPTIMIZERS
from jaxnst.presets import GEOMETRY, PRESETS, preset
from jaxnst.recipes import Recipe, TransferConfig

FLOAT32_MAX = 3.4028234e38
INT_MAX = 2**63 - 1
#: Fields of the dataclasses whose options `--help` lists among the first.
COMMON = ("size", "num_steps", "style_scale")


class Choice(NamedTuple):
    """What a command line asks for."""

    config: TransferConfig
    weights: LossWeights
    geometry: Geometry
    color: str = "style"  #: one of `COLORS`
    rescale: bool = False  #: whether the network is rescaled


def positive_int(text: str) -> int:
    """Parse a positive integer."""
    return _int(text, 1, "a positive integer")


def positive_int_or_auto(text: str) -> int | str:
    """Parse a positive integer, or "auto"."""
    return text if text == "auto" else _int(text, 1, "a positive integer or auto")


def any_int(text: str) -> int:
    """Parse an integer."""
    return _int(text, -INT_MAX, "an integer")


def _int(text: str, least: int, kind: str) -> int:
    if re.fullmatch("[+-]?[0-9]{1,19}", text) and least <= int(text) <= INT_MAX:
        return int(text)
    below = f" below {INT_MAX + 1}" if len(text) > 9 else ""
    raise argparse.ArgumentTypeError(f"must be {kind}{below}, not {text!r}")


def number(text: str) -> float:
    """Parse a finite number, 0 or more."""
    # Python's own float would take "1_0" and " 5 ".
    plain = re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?", text)
    if not plain or not 0 <= float(text) <= FLOAT32_MAX:
        raise argparse.ArgumentTypeError(f"must be a finite number, 0 or more, not {text!r}")
    return float(text)


def preset_named(arguments: list[str]) -> str:
    """Return the preset that the arguments name: its terms decide which options there are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset", default="default")
    try:
        name: str = parser.parse_known_args(arguments)[0].preset
    except argparse.ArgumentError:  # the whole parser will refuse it
        return "default"
    return name if name in PRESETS else "default"


def term_flags(recipe: Recipe, suffix: str) -> dict[str, str]:
    """Return an option's name for each term, such as "--style-weight"."""
    return {name: f"--{name.replace('_', '-')}-{suffix}" for name in recipe.config.objective.terms}


def add_preset_options(group: Any) -> None:
    """Add `--preset` and `--color` to a group of options."""
    group.add_argument(
        "--preset",
        default="default",
        metavar="NAME",
        help=f"use this recipe: {', '.join(PRESETS)} (%(default)s)",
    )
    group.add_argument(
        "--color",
        choices=tuple(COLORS),
        default="style",
        help="take the colours of the style (style), or keep those of the content: transfer its "
        "luminance alone (content-luminance), recolour the finished picture (content-after), or "
        "match the style's colours to the content's before, by PCA (match) (%(default)s)",
    )


def add_rescaling(group: Any) -> None:
    """Add `--rescale` to a group of options."""
    group.add_argument(
        "--rescale",
        action="store_true",
        help="rescale the network to mean activations of 1 on the pictures, in a batch or for a "
        "texture on the styles (Gatys et al. 2016, section 2)",
    )


def add_recipe_options(
    group: Any, recipe: Recipe, *, common: bool, fixed: Sequence[str] = ()
) -> None:
    """Add options for the numbers that may replace the recipe's.

    Args:
        group: the group of options to add to.
        recipe: the recipe; each of its terms has options.
        common: whether to add the weights and the fields in `COMMON`, or all other options.
        fixed: names of fields without an option.
    """
    classes = (Geometry, TransferConfig, Objective, *OPTIMIZERS.values())
    fields = {f.name: f for cls in classes for f in _described(cls) if f.name not in fixed}
    for entry in fields.values():
        if (entry.name in COMMON) is common:
            flag = "--" + entry.name.replace("_", "-")
            help_text = entry.metadata["help"]
            group.add_argument(flag, dest=entry.name, default=None, help=help_text, **_kind(entry))
    for name, flag in term_flags(recipe, "weight" if common else "layers").items():
        if common:
            group.add_argument(
                flag,
                dest=f"{name}_weight",
                type=number,
                metavar="X",
                help=f"weigh the {name} term of the loss by X",
            )
        elif recipe.config.objective.terms[name].layers != ("image",):
            group.add_argument(
                flag,
                dest=f"{name}_layers",
                nargs="+",
                metavar="LAYER",
                help=f"compare features at these layers in the {name} term, such as relu4_2",
            )


def _described(cls: Any) -> list[Any]:
    """Return the fields that are options: those with a help text, their types resolved."""
    hints = typing.get_type_hints(cls)
    fields = [f for f in dataclasses.fields(cls) if "help" in f.metadata]
    for entry in fields:
        entry.type = hints[entry.name]
    return fields


def _kind(entry: Any) -> dict[str, Any]:
    if "or_file" in entry.metadata:
        words = typing.get_args(entry.type)
        kind = lambda text: text if text in words else Path(text)  # noqa: E731
        return {"type": kind, "metavar": "|".join((*words, "FILE"))}
    if "choices" in entry.metadata:
        or_pair = any(typing.get_origin(kind) is tuple for kind in typing.get_args(entry.type))
        return {"choices": entry.metadata["choices"], "nargs": "+" if or_pair else None}
    if entry.type is bool:
        return {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(entry.type) is Literal:
        return {"choices": typing.get_args(entry.type)}
    if entry.type == int | tuple[int, ...]:
        return {"type": positive_int, "nargs": "+", "metavar": "N"}
    if entry.type == float | tuple[float, ...] | None:
        return {"type": number, "nargs": "+", "metavar": "X"}
    if entry.type == int | Literal["auto"] | None:
        return {"type": positive_int_or_auto, "metavar": "N|auto"}
    if entry.type in (int, int | None):
        return {"type": any_int if entry.name == "seed" else positive_int, "metavar": "N"}
    return {"type": number, "metavar": "X"}


def choose(options: argparse.Namespace) -> Choice:
    """Return the preset with the options that were given in its place.

    A command's own recipe is `options.recipe`, and its own defaults are in
    `options.recipe_defaults`, by the names of the fields.

    Raises:
        ValueError: an option is out of range, or goes with another optimiser.
    """
    config, weights = getattr(options, "recipe", None) or preset(options.preset)
    given = getattr(options, "recipe_defaults", {}) | {
        k: v for k, v in vars(options).items() if v is not None and not isinstance(v, Path)
    }
    for name in {"num_steps", "padding", "style_scale"} & given.keys():
        if isinstance(given[name], list):
            given[name] = given[name][0] if len(given[name]) == 1 else tuple(given[name])

    def replace(old: Any) -> Any:
        names = {f.name for f in dataclasses.fields(old) if "help" in f.metadata}
        return dataclasses.replace(old, **{k: v for k, v in given.items() if k in names})

    optimizer = _optimizer(config.optimizer, given)
    given.pop("optimizer", None)
    objective: Objective = replace(config.objective)
    terms = dict(objective.terms)
    for name, term in objective.terms.items():
        if layers := given.get(f"{name}_layers"):
            terms[name] = dataclasses.replace(typing.cast(Any, term), layers=tuple(layers))
            weights = _weights_of_layers(weights, name, layers)
        if f"{name}_weight" in given:
            weights = weights.replace(**{name: given[f"{name}_weight"]})
    objective = dataclasses.replace(objective, terms=terms)
    config = dataclasses.replace(replace(config), objective=objective, optimizer=optimizer)
    geometry = replace(GEOMETRY.get(options.preset, Geometry()))
    return Choice(config, weights, geometry, options.color, options.rescale)


def _optimizer(old: Any, given: dict[str, Any]) -> Any:
    """Return the optimiser's settings, its own numbers replaced by those given."""
    chosen = OPTIMIZERS[given["optimizer"]] if "optimizer" in given else type(old)
    names = {f.name for f in dataclasses.fields(chosen) if "help" in f.metadata}
    for name, cls in OPTIMIZERS.items():
        for entry in dataclasses.fields(cls):
            if entry.name in given and "help" in entry.metadata and entry.name not in names:
                flag = entry.name.replace("_", "-")
                raise ValueError(f"--{flag} goes with --optimizer {name}: add it, or leave it out")
    numbers = {k: v for k, v in given.items() if k in names}
    return dataclasses.replace(old if chosen is type(old) else chosen(), **numbers)


def _weights_of_layers(weights: LossWeights, name: str, layers: list[str]) -> LossWeights:
    # A layer that the preset does not know counts like the mean of those that it does.
    known = weights.layers[name]
    usual = sum(known.values()) / len(known)
    chosen = {layer: known.get(layer, usual) for layer in layers}
    return weights._replace(layers={**weights.layers, name: chosen})
