"""The words of the command line: its commands, their arguments and options."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

import jaxnst
from jaxnst.app.options import (
    add_preset_options,
    add_recipe_options,
    any_int,
    number,
    positive_int,
    term_flags,
)
from jaxnst.app.output import one_line
from jaxnst.formats import INPUT_RULES, KNOWN_FILES
from jaxnst.texture import texture_recipe

DEMO = Path(jaxnst.__file__).parent / "demo"


class _Parser(argparse.ArgumentParser):
    """A parser whose every complaint is one line and exit status 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)  # so that an option has one spelling

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message)}\n")


def make_parser(preset: str = "default") -> argparse.ArgumentParser:
    """Return the parser, with options for the terms of a preset.

    What it parses has the command's name as `command`.
    """
    recipe = jaxnst.preset(preset)
    parser = _Parser(prog="jaxnst", description=jaxnst.__doc__)
    parser.add_argument("--version", action="version", version=f"jaxnst {jaxnst.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

    transfer = commands.add_parser("transfer", help="give a picture the style of others")
    transfer.add_argument("content", type=Path, metavar="CONTENT")
    transfer.add_argument(
        "style", type=Path, nargs="+", metavar="STYLE", help="several are blended"
    )
    transfer.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    transfer.set_defaults(command="transfer")

    texture = commands.add_parser("texture", help="make a texture that looks like pictures")
    texture.add_argument("style", type=Path, nargs="+", metavar="STYLE", help="several are blended")
    texture.add_argument("-o", "--output", type=Path, required=True, metavar="OUT")
    texture.add_argument(
        "--shape",
        type=positive_int,
        nargs=2,
        metavar=("H", "W"),
        help="height and width in pixels (a square of --size, which is the size of STYLE)",
    )
    texture.add_argument(
        "--tileable",
        dest="padding",
        action="store_const",
        const="circular",
        help="copies of it side by side show no seam",
    )
    # The recipe is its own, and there is no content.
    texture.set_defaults(command="texture", recipe=texture_recipe(), preset="default")
    texture.set_defaults(contents=[], color="style", init=None)

    demo = commands.add_parser("demo", help="make a picture from the two that come along")
    demo.add_argument("-o", "--output", type=Path, default=Path("demo.png"), metavar="OUT")
    # What two cores can do in about two minutes, compilation included.
    demo.set_defaults(command="transfer", content=DEMO / "content.jpg", style=[DEMO / "style.jpg"])
    demo.set_defaults(recipe_defaults={"size": 320, "num_steps": 80})

    sweep = commands.add_parser(
        "sweep", help="make a picture for each of several weights, and a page to walk through them"
    )
    sweep.add_argument("content", type=Path, metavar="CONTENT")
    sweep.add_argument("style", type=Path, nargs="+", metavar="STYLE", help="several are blended")
    _add_folder(sweep)
    axes = sweep.add_argument_group("what varies; of several, all combinations are made")
    for name, flag in term_flags(recipe, "weights").items():
        axes.add_argument(
            flag,
            dest=f"{name}_weights",
            type=number,
            nargs="+",
            metavar="X",
            help="coefficients in the loss",
        )
    axes.add_argument("--seeds", type=any_int, nargs="+", metavar="N", help="seeds of the noise")
    sweep.set_defaults(command="sweep")

    batch = commands.add_parser("batch", help="give all pictures of folders the style of others")
    batch.add_argument(
        "contents", type=Path, nargs="+", metavar="CONTENTS", help="pictures, or folders of them"
    )
    batch.add_argument(
        "--styles",
        dest="style",
        type=Path,
        nargs="+",
        required=True,
        metavar="STYLE",
        help="several are blended",
    )
    _add_folder(batch)
    batch.add_argument(
        "--suffix",
        choices=(".png", ".jpg", ".webp"),
        default=".png",
        help="of results (%(default)s)",
    )
    batch.add_argument(
        "--multiple",
        type=positive_int,
        default=1,
        metavar="N",
        help="round the side that --fit does not name to a multiple of N pixels, so that pictures "
        "of many proportions have few shapes to compile (%(default)s: keep proportions)",
    )
    batch.set_defaults(command="batch")

    for command in (transfer, demo, sweep):
        _add_masks(command)
    for command in (transfer, demo):
        command.add_argument(
            "--content-mask",
            type=Path,
            metavar="MASK",
            help="a picture that is white where the content is kept as it is, such as a face",
        )
    for command in (transfer, texture, demo, sweep, batch):
        command.add_argument(
            "--blend",
            type=number,
            nargs="+",
            metavar="X",
            help="share of each style where several are blended (all equal)",
        )
        command.add_argument("--quiet", action="store_true", help="show no progress")
        command.add_argument(
            "--params", type=Path, metavar="FILE", help="a VGG19 file of your own (the bundled one)"
        )
        _add_input(command)
        if command in (transfer, texture, demo):
            _add_run_options(command)
        else:
            _add_process_options(command)
        if command is texture:
            add_recipe_options(command, texture_recipe(), fixed=("init", "padding"))
        else:
            add_preset_options(command)
            add_recipe_options(command, recipe)

    weights = commands.add_parser("weights", help="list, inspect, convert and fetch VGG19 files")
    actions = weights.add_subparsers(required=True, metavar="ACTION", parser_class=_Parser)
    action = actions.add_parser("list", help="what is bundled, cached, and can be fetched")
    action.set_defaults(command="weights list")
    action = actions.add_parser("info", help="what a file is, without loading it")
    action.add_argument("file", type=Path, metavar="FILE")
    action.set_defaults(command="weights info")
    action = actions.add_parser("verify", help="load a file whole and compare its checksum")
    action.add_argument("file", type=Path, metavar="FILE")
    _add_input(action)
    action.set_defaults(command="weights verify")
    action = actions.add_parser("convert", help="write a file as .safetensors or as .h5 of jaxnst")
    action.add_argument("file", type=Path, metavar="IN")
    action.add_argument("output", type=Path, metavar="OUT")
    action.add_argument(
        "--quantize", action="store_true", help="to 8 bits, a quarter of the size as .h5"
    )
    _add_input(action)
    action.set_defaults(command="weights convert")
    action = actions.add_parser("fetch", help="download a published file and print its path")
    fetchable = [name for name, known in KNOWN_FILES.items() if known.url]
    action.add_argument("name", choices=fetchable, metavar="|".join(fetchable))
    action.add_argument("--quiet", action="store_true", help="show no progress")
    action.set_defaults(command="weights fetch")
    return parser


def _add_masks(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("regions")
    group.add_argument(
        "--masks",
        type=Path,
        nargs="+",
        metavar="MASK",
        help="for each style, a picture that is white where the content takes that style",
    )
    group.add_argument(
        "--style-masks",
        type=Path,
        nargs="+",
        metavar="MASK",
        help="for each style, a picture that is white where that style is taken from",
    )


def _add_input(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--input",
        choices=tuple(INPUT_RULES),
        help="what the network wants of its input, where the file does not tell",
    )


def _add_run_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("while it runs and afterwards")
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
        help="how often the state is saved, 0 for only at Ctrl-C (%(default)g)",
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


def _add_folder(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="a new folder, or that of the same job, which then goes on",
    )
    command.add_argument(
        "--lane-batch",
        type=positive_int,
        metavar="N",
        help="how many pictures run at once, over all devices of a process",
    )
    command.add_argument(
        "--restart", action="store_true", help="replace what an earlier job has left in DIR"
    )


def _add_process_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("several processes at one job, see docs/devices.md")
    group.add_argument(
        "--distributed", action="store_true", help="share the work with the other processes"
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of process 0, where JAX does not find out"
    )
    group.add_argument("--num-processes", type=positive_int, metavar="N", help="how many there are")
    group.add_argument("--process-id", type=any_int, metavar="I", help="which this is, from 0")
