"""The command line. The only file that prints or exits."""

import argparse
import dataclasses
import logging
import math
import sys
import typing
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Literal, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar

import jaxnst
from jaxnst.images import check_output, load_alpha, load_image, save_image
from jaxnst.objective import LossWeights, ObjectiveConfig
from jaxnst.optimize import Progress, Status
from jaxnst.params import load_params
from jaxnst.presets import PRESETS, preset
from jaxnst.transfer import TransferConfig, style_transfer

FLOAT32_MAX = 3.4028234e38
DEMO = Path(__file__).parent / "demo"


class _Parser(argparse.ArgumentParser):
    """A parser whose every complaint is one line and exit status 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


def _positive_int(text: str) -> int:
    number = int(text) if text.strip().isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, not {text!r}")
    return number


def _any_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be an integer, not {text!r}") from None


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number <= FLOAT32_MAX:  # never true of nan
        raise argparse.ArgumentTypeError(f"must be a finite number, 0 or more, not {text!r}")
    return number


def _add_config_options(parser: argparse.ArgumentParser, config: type) -> None:
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
        elif hint is int:
            kind = {"type": _any_int if entry.name == "seed" else _positive_int, "metavar": "N"}
        else:
            kind = {"type": _number, "metavar": "X"}
        parser.add_argument(
            flag, dest=entry.name, default=None, help=entry.metadata.get("help"), **kind
        )


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="jaxnst", description=jaxnst.__doc__)
    parser.add_argument("--version", action="version", version=f"jaxnst {jaxnst.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    transfer = commands.add_parser("transfer", help="give a picture the style of others")
    transfer.add_argument("content", type=Path, metavar="CONTENT")
    transfer.add_argument(
        "style", type=Path, nargs="+", metavar="STYLE", help="several are blended"
    )
    transfer.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    transfer.set_defaults(run=_transfer)

    demo = commands.add_parser("demo", help="make a picture from the two that come along")
    demo.add_argument("-o", "--output", type=Path, default=Path("demo.png"), metavar="OUT")
    # What two cores of a laptop can do in about a minute.
    demo.set_defaults(run=_transfer, content=DEMO / "content.jpg", style=[DEMO / "style.jpg"])
    demo.set_defaults(demo_defaults={"size": 320, "num_steps": 150, "content_weight": 0.25})

    for command in (transfer, demo):
        command.add_argument("--quiet", action="store_true", help="show no progress")
        command.add_argument(
            "--preset", default="pastiche", help=f"the recipe: {', '.join(PRESETS)} (%(default)s)"
        )
        recipe = command.add_argument_group("in place of what the preset says")
        for name in ("content_weight", "style_weight", "tv_weight"):
            flag = "--" + name.replace("_", "-")
            recipe.add_argument(flag, type=_number, metavar="X", help="coefficient in the loss")
        _add_config_options(recipe, TransferConfig)  # type: ignore[arg-type]
    return parser


def _recipe(options: argparse.Namespace) -> tuple[TransferConfig, LossWeights]:
    """The preset, with the options that were given in its place."""
    config, weights = preset(options.preset)
    given = getattr(options, "demo_defaults", {}) | {
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


def _transfer(options: argparse.Namespace) -> int:
    """Run `jaxnst transfer` or `jaxnst demo`; returns the exit status."""
    config, weights = _recipe(options)
    check_output(options.output)
    geometry: dict[str, Any] = {"fit": config.fit, "crop": config.crop}
    content = load_image(options.content, size=config.size, **geometry)
    alpha = load_alpha(options.content, size=config.size, **geometry)
    styles = [load_image(path, size=config.size, **geometry) for path in options.style]
    with _progress(config.num_steps, options.quiet) as show:
        result = style_transfer(
            content,
            styles,
            params=load_params(),
            weights=weights,
            config=config,
            callback=show,
        )
    evaluations = len(result.history["loss"])
    if result.status is Status.NON_FINITE and not evaluations > 1:
        raise ValueError("the loss is not finite at the first image; use smaller weights")
    save_image(options.output, result.image, alpha=alpha)
    note = {
        Status.OK: "",
        Status.CONVERGED: ", converged",
        Status.NON_FINITE: ", stopped where the loss was no longer finite",
        Status.INTERRUPTED: ", interrupted; this is the best picture so far",
    }[result.status]
    print(f"{options.output}: loss {min(result.history['loss']):.4g} "
          f"after {evaluations} evaluations{note}")  # fmt: skip
    return 130 if result.status is Status.INTERRUPTED else 0


class _Bar(AbstractContextManager["_Bar"]):
    """Evaluations, losses and the time left, on the terminal's standard error."""

    def __init__(self, num_steps: int) -> None:
        self.bar = ProgressBar(
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task("compiling …", total=num_steps)

    def __enter__(self) -> "_Bar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, progress: Progress) -> None:
        terms = "  ".join(f"{name} {value:.4g}" for name, value in progress.terms.items() if value)
        text = f"loss {progress.loss:.4g}  {terms}"
        self.bar.update(self.task, completed=progress.evaluation, description=text)


def _progress(num_steps: int, quiet: bool) -> AbstractContextManager[_Bar | None]:
    return nullcontext() if quiet or not sys.stderr.isatty() else _Bar(num_steps)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; bad input is one line on stderr and exit status 2."""
    logging.basicConfig(format="jaxnst: %(message)s")
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except (ValueError, TypeError, OSError) as error:
        print(f"jaxnst: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxnst: interrupted, nothing was written", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
