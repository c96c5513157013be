"""Arguments and options that several commands share."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxnst.app.options import (
    add_preset_options,
    add_recipe_options,
    add_rescaling,
    any_int,
    number,
    positive_int,
)
from jaxnst.formats import INPUT_RULES
from jaxnst.recipes import Recipe


def add_pictures(command: argparse.ArgumentParser) -> None:
    """Add CONTENT and STYLE."""
    command.add_argument(
        "content", type=Path, metavar="CONTENT", help="the picture to give the style"
    )
    add_style(command)


def add_style(command: argparse.ArgumentParser, *flag: str, **options: Any) -> None:
    """Add STYLE, or an option for it."""
    command.add_argument(
        *(flag or ("style",)),
        type=Path,
        nargs="+",
        metavar="STYLE",
        help="the picture whose style it takes; several are blended",
        **options,
    )


def add_output(command: argparse.ArgumentParser, default: Path | None = None) -> None:
    """Add `-o OUT`, required unless it has a default."""
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        default=default,
        required=default is None,
        metavar="OUT",
        help="write the result here: .png, .jpg, .webp or another kind of picture"
        + " (%(default)s)" * (default is not None),
    )


def add_folder(command: argparse.ArgumentParser) -> None:
    """Add `-o DIR` and the options of jobs of many pictures."""
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="write results to this folder: a new one, or that of the same job, which then goes on",
    )
    command.add_argument(
        "--lane-batch",
        type=positive_int,
        metavar="N",
        help="run N pictures at once, over all devices of a process",
    )
    command.add_argument(
        "--restart", action="store_true", help="replace what an earlier job has left in DIR"
    )


def add_options(
    command: argparse.ArgumentParser,
    recipe: Recipe,
    add_running: Callable[[argparse.ArgumentParser], None],
    *,
    fixed: Sequence[str] = (),
) -> None:
    """Add the options that several commands have, those that most users need first."""
    has_preset = command.get_default("recipe") is None
    group = command.add_argument_group("common options")
    add_recipe_options(group, recipe, common=True, fixed=fixed)
    if has_preset:
        add_preset_options(group)
    group.add_argument(
        "--blend",
        type=number,
        nargs="+",
        metavar="X",
        help="give each style this share where several are blended (all equal)",
    )
    if has_preset and command.get_default("command") in ("transfer", "sweep"):
        _add_masks(command)
    add_running(command)
    group = command.add_argument_group("expert options", "They replace what the recipe says.")
    add_recipe_options(group, recipe, common=False, fixed=fixed)
    add_rescaling(group)
    group.add_argument(
        "--params", type=Path, metavar="FILE", help="use a VGG19 file of your own (the bundled one)"
    )
    add_input(group)


def _add_masks(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("regions")
    group.add_argument(
        "--masks",
        type=Path,
        nargs="+",
        metavar="MASK",
        help="a picture for each style, white where the content takes that style",
    )
    group.add_argument(
        "--style-masks",
        type=Path,
        nargs="+",
        metavar="MASK",
        help="a picture for each style, white where that style is taken from",
    )
    group.add_argument(
        "--content-mask",
        type=Path,
        metavar="MASK",
        help="a picture that is white where the content is kept as it is, such as a face",
    )


def add_input(command: Any) -> None:
    """Add `--input`."""
    command.add_argument(
        "--input",
        choices=tuple(INPUT_RULES),
        help="say what the network expects of its input, where the file does not",
    )


def add_run_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a run, which can be resumed and shown."""
    group = command.add_argument_group("while it runs and afterwards")
    add_quiet(group)
    how = group.add_mutually_exclusive_group()
    how.add_argument(
        "--resume", action="store_true", help="go on with a run that was interrupted or killed"
    )
    how.add_argument("--restart", action="store_true", help="discard that run and start again")
    group.add_argument(
        "--checkpoint-seconds",
        type=number,
        default=60.0,
        metavar="X",
        help="save the state every X seconds, 0 for only at Ctrl-C (%(default)g)",
    )
    group.add_argument(
        "--save-every",
        type=positive_int,
        metavar="N",
        help="keep the picture after each N evaluations as OUT_N",
    )
    group.add_argument(
        "--animation", type=Path, metavar="FILE", help="make a .gif or .webp of the whole run"
    )
    group.add_argument(
        "--plot", type=Path, metavar="FILE", help="plot the losses (needs jaxnst[plot])"
    )


def add_process_options(command: argparse.ArgumentParser) -> None:
    """Add the options of a job, which several processes can share."""
    group = command.add_argument_group("while it runs")
    add_quiet(group)
    group = command.add_argument_group("several processes at one job, see docs/devices.md")
    group.add_argument(
        "--distributed", action="store_true", help="share the work with the other processes"
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="address of process 0, where JAX does not detect it",
    )
    group.add_argument(
        "--num-processes", type=positive_int, metavar="N", help="number of processes"
    )
    group.add_argument(
        "--process-id", type=any_int, metavar="I", help="index of this process, from 0"
    )


def add_quiet(group: Any) -> None:
    """Add `--quiet`."""
    group.add_argument("--quiet", action="store_true", help="show no progress")
