"""Parse the command line: its commands, their arguments and options."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

import jaxnst
from jaxnst.app.arguments import (
    add_folder,
    add_input,
    add_options,
    add_output,
    add_pictures,
    add_process_options,
    add_quiet,
    add_run_options,
    add_style,
)
from jaxnst.app.options import any_int, number, positive_int, term_flags
from jaxnst.app.output import one_line
from jaxnst.formats import KNOWN_FILES
from jaxnst.recipes import Recipe
from jaxnst.texture import mix_recipe, texture_recipe

DEMO = Path(jaxnst.__file__).parent / "demo"


class _Parser(argparse.ArgumentParser):
    """A parser that refuses bad arguments in one line, with exit status 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)  # so that an option has one spelling

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {one_line(message)}\n")


def make_parser(preset: str = "default") -> argparse.ArgumentParser:
    """Return the parser, with options for the terms of a preset.

    The attribute `command` of the parsed arguments has the name of the command.
    """
    recipe = jaxnst.preset(preset)
    parser = _Parser(prog="jaxnst", description=jaxnst.__doc__)
    parser.add_argument("--version", action="version", version=f"jaxnst {jaxnst.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for add in (_add_transfer, _add_texture, _add_mix, _add_demo, _add_sweep, _add_batch):
        add(commands, recipe)
    _add_weights(commands)
    return parser


def _command(commands: Any, name: str, arguments: str, help: str) -> argparse.ArgumentParser:
    """Add a command, whose `--help` shows its arguments in one line and says what it does."""
    usage = f"jaxnst {name} {arguments} [OPTION ...]"
    description = f"{help[0].upper()}{help[1:]}."
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help, usage=usage, description=description
    )
    command.set_defaults(command=name)
    return command


def _add_transfer(commands: Any, recipe: Recipe) -> None:
    transfer = _command(
        commands,
        "transfer",
        "CONTENT STYLE [STYLE ...] -o OUT",
        "give a picture the style of others",
    )
    add_pictures(transfer)
    add_output(transfer)
    add_options(transfer, recipe, add_run_options)


def _add_texture(commands: Any, _: Recipe) -> None:
    texture = _command(
        commands, "texture", "STYLE [STYLE ...] -o OUT", "make a texture that looks like pictures"
    )
    add_style(texture)
    add_output(texture)
    texture.add_argument(
        "--shape",
        type=positive_int,
        nargs=2,
        metavar=("H", "W"),
        help="make it H pixels high and W wide (a square of --size, which is the size of STYLE)",
    )
    texture.add_argument(
        "--tileable",
        dest="padding",
        action="store_const",
        const="circular",
        help="make copies of it fit side by side without a seam",
    )
    # The recipe is its own, and there is no content.
    texture.set_defaults(recipe=texture_recipe(), preset="default")
    texture.set_defaults(contents=[], color="style", init=None)
    add_options(texture, texture_recipe(), add_run_options, fixed=("init", "padding"))


def _add_mix(commands: Any, _: Recipe) -> None:
    mix = _command(
        commands, "mix", "COARSE FINE -o OUT", "make a style of one's shapes and another's strokes"
    )
    mix.add_argument(
        "content", type=Path, metavar="COARSE", help="the style whose large shapes remain"
    )
    mix.add_argument(
        "style", type=Path, nargs=1, metavar="FINE", help="the style whose strokes are taken"
    )
    add_output(mix)
    # A transfer without a content term, by a recipe of its own.
    mix.set_defaults(command="transfer", recipe=mix_recipe(), preset="default")
    mix.set_defaults(color="style", masks=None, style_masks=None)
    add_options(mix, mix_recipe(), add_run_options)


def _add_demo(commands: Any, recipe: Recipe) -> None:
    demo = _command(commands, "demo", "[-o OUT]", "make a picture from the two that come along")
    add_output(demo, default=Path("demo.png"))
    # What two cores can do in about two minutes, compilation included.
    demo.set_defaults(command="transfer", content=DEMO / "content.jpg", style=[DEMO / "style.jpg"])
    demo.set_defaults(recipe_defaults={"size": 320, "num_steps": 80})
    add_options(demo, recipe, add_run_options)


def _add_sweep(commands: Any, recipe: Recipe) -> None:
    sweep = _command(
        commands,
        "sweep",
        "CONTENT STYLE [STYLE ...] -o DIR",
        "make a picture for each of several weights, and a page to walk through them",
    )
    add_pictures(sweep)
    add_folder(sweep)
    axes = sweep.add_argument_group(
        "what varies", "Give one or more of these; a picture is made for each combination."
    )
    for name, flag in term_flags(recipe, "weights").items():
        axes.add_argument(
            flag,
            dest=f"{name}_weights",
            type=number,
            nargs="+",
            metavar="X",
            help=f"weigh the {name} term of the loss by each X",
        )
    axes.add_argument(
        "--seeds", type=any_int, nargs="+", metavar="N", help="draw the noise from each seed"
    )
    add_options(sweep, recipe, add_process_options)


def _add_batch(commands: Any, recipe: Recipe) -> None:
    batch = _command(
        commands,
        "batch",
        "CONTENTS [CONTENTS ...] --styles STYLE [STYLE ...] -o DIR",
        "give all pictures of folders the style of others",
    )
    batch.add_argument(
        "contents",
        type=Path,
        nargs="+",
        metavar="CONTENTS",
        help="pictures to give the style, or folders of them",
    )
    add_style(batch, "--styles", dest="style", required=True)
    add_folder(batch)
    batch.add_argument(
        "--suffix",
        choices=(".png", ".jpg", ".webp"),
        default=".png",
        help="write results as files of this kind (%(default)s)",
    )
    batch.add_argument(
        "--multiple",
        type=positive_int,
        default=1,
        metavar="N",
        help="round the side that --fit does not name to a multiple of N pixels, so that pictures "
        "of many proportions have few shapes to compile (%(default)s: keep proportions)",
    )
    add_options(batch, recipe, add_process_options)


def _add_weights(commands: Any) -> None:
    weights = commands.add_parser("weights", help="list, inspect, convert and fetch VGG19 files")
    actions = weights.add_subparsers(required=True, metavar="ACTION", parser_class=_Parser)
    action = actions.add_parser("list", help="show what is bundled, cached, and can be fetched")
    action.set_defaults(command="weights list")
    action = actions.add_parser("info", help="show what a file is, without loading it")
    action.add_argument("file", type=Path, metavar="FILE")
    action.set_defaults(command="weights info")
    action = actions.add_parser("verify", help="load a file whole and compare its checksum")
    action.add_argument("file", type=Path, metavar="FILE")
    add_input(action)
    action.set_defaults(command="weights verify")
    action = actions.add_parser("convert", help="write a file as .safetensors or as .h5 of jaxnst")
    action.add_argument("file", type=Path, metavar="IN")
    action.add_argument("output", type=Path, metavar="OUT")
    action.add_argument(
        "--quantize", action="store_true", help="round to 8 bits, a quarter of the size as .h5"
    )
    add_input(action)
    action.set_defaults(command="weights convert")
    action = actions.add_parser("fetch", help="download a published file and print its path")
    fetchable = [name for name, known in KNOWN_FILES.items() if known.url]
    action.add_argument("name", choices=fetchable, metavar="|".join(fetchable))
    add_quiet(action)
    action.set_defaults(command="weights fetch")
