"""The command line. The only file that prints or exits."""

import argparse
import logging
import math
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NoReturn

import jax

import jaxnst
from jaxnst.animation import check_animation_output, save_animation
from jaxnst.images import check_output, load_alpha, load_image
from jaxnst.known_files import KNOWN_FILES, cache_dir, cached, fetch, identify, sha256
from jaxnst.layouts import INPUT_RULES
from jaxnst.optimize import Status
from jaxnst.options import add_recipe_options, number, positive_int, recipe
from jaxnst.params import (
    bundled_weights,
    inspect_weights,
    load_params,
    quantize_params,
    save_params,
    show_shape,
)
from jaxnst.plot import check_plot_output, save_plot
from jaxnst.progress import DownloadBar, TransferBar
from jaxnst.recorder import NUM_FRAMES, Recorder, fingerprint_of, is_unfinished, run_folder
from jaxnst.transfer import Scale, TransferResult, schedule, style_transfer

DEMO = Path(__file__).parent / "demo"


class _Parser(argparse.ArgumentParser):
    """A parser whose every complaint is one line and exit status 2."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False)  # so that an option has one spelling

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}\n")


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
    demo.set_defaults(recipe_defaults={"size": 320, "num_steps": 150, "content_weight": 0.25})

    for command in (transfer, demo):
        command.add_argument("--quiet", action="store_true", help="show no progress")
        command.add_argument(
            "--params", type=Path, metavar="FILE", help="a VGG19 file of your own (the bundled one)"
        )
        _add_input(command)
        _add_run_options(command)
        add_recipe_options(command)

    weights = commands.add_parser("weights", help="list, inspect, convert and fetch VGG19 files")
    actions = weights.add_subparsers(required=True, metavar="ACTION", parser_class=_Parser)
    action = actions.add_parser("list", help="what is bundled, cached, and can be fetched")
    action.set_defaults(run=_weights_list)
    action = actions.add_parser("info", help="what a file is, without loading it")
    action.add_argument("file", type=Path, metavar="FILE")
    action.set_defaults(run=_weights_info)
    action = actions.add_parser("verify", help="load a file whole and compare its checksum")
    action.add_argument("file", type=Path, metavar="FILE")
    _add_input(action)
    action.set_defaults(run=_weights_verify)
    action = actions.add_parser("convert", help="write a file as .safetensors or as .h5 of jaxnst")
    action.add_argument("file", type=Path, metavar="IN")
    action.add_argument("output", type=Path, metavar="OUT")
    action.add_argument(
        "--quantize", action="store_true", help="to 8 bits, a quarter of the size as .h5"
    )
    _add_input(action)
    action.set_defaults(run=_weights_convert)
    action = actions.add_parser("fetch", help="download a published file and print its path")
    fetchable = [name for name, known in KNOWN_FILES.items() if known.url]
    action.add_argument("name", choices=fetchable, metavar="|".join(fetchable))
    action.add_argument("--quiet", action="store_true", help="show no progress")
    action.set_defaults(run=_weights_fetch)
    return parser


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
    how.add_argument("--restart", action="store_true", help="throw such a run away and start anew")
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


def _transfer(options: argparse.Namespace) -> int:
    """Run `jaxnst transfer` or `jaxnst demo`; returns the exit status."""
    config, weights = recipe(options)
    _check_outputs(options)
    if is_unfinished(options.output) and not (options.resume or options.restart):
        raise ValueError(
            f"{run_folder(options.output)} holds an unfinished run: add --resume to go on with it, "
            "or --restart to throw it away"
        )
    geometry: dict[str, Any] = {"fit": config.fit, "crop": config.crop}
    content = load_image(options.content, size=config.size, **geometry)
    alpha = load_alpha(options.content, size=config.size, **geometry)
    styles = [load_image(path, size=config.size, **geometry) for path in options.style]
    params = load_params(options.params, input=options.input)
    scales = schedule(content, config)
    num_steps = sum(scale.num_steps for scale in scales)
    frame_every = max(1, num_steps // NUM_FRAMES) if options.animation else None
    every = [n for n in (options.save_every, frame_every) if n]
    recorder = Recorder(
        options.output,
        scales[-1].shape,
        fingerprint_of(content, styles, params, weights, config),
        alpha=alpha,
        interval=options.checkpoint_seconds,
        save_every=options.save_every,
        frame_every=frame_every,
    )
    resume = recorder.resume() if options.resume else None
    if resume is None:
        recorder.remove()  # frames of a run that was killed before its first state, too
    _use_compilation_cache()
    with recorder.at_work():
        with _progress(scales, options.quiet) as recorder.show, _terminable() as terminated:
            result = style_transfer(
                content,
                styles,
                params=params,
                weights=weights,
                config=config,
                resume=resume,
                callback=lambda progress: recorder(progress) or terminated.is_set(),
                every=math.gcd(*every) if every else None,
            )
        if result.status is Status.INTERRUPTED:
            return _interrupted(options, result, recorder, 143 if terminated.is_set() else 130)
        return _finished(options, result, recorder)


def _check_outputs(options: argparse.Namespace) -> None:
    """Refuse what cannot be written, and what would overwrite an input or another output."""
    check_output(options.output)
    if options.animation:
        check_animation_output(options.animation)
    if options.plot:
        check_plot_output(options.plot)
    taken = {path.resolve() for path in (options.content, *options.style)}
    for path in filter(None, (options.output, options.animation, options.plot)):
        if path.resolve() in taken:
            raise ValueError(f"{str(path)!r} is named twice: give each output a name of its own")
        taken.add(path.resolve())


def _interrupted(
    options: argparse.Namespace, result: TransferResult, recorder: Recorder, status: int
) -> int:
    """Save what there is, and say how to go on; returns the exit status."""
    recorder.save()
    text = f"{_summary(options, result)}, interrupted; this is the picture so far"
    if is_unfinished(options.output):
        command, *given = options.arguments
        given = [word for word in given if word not in ("--resume", "--restart")]
        text += ". Go on with\n" + shlex.join(["jaxnst", command, "--resume", *given])
    print(text)
    return status


def _finished(options: argparse.Namespace, result: TransferResult, recorder: Recorder) -> int:
    """Save all that was asked for; returns the exit status."""
    evaluations = len(result.history["loss"])
    if result.status is Status.NON_FINITE and not evaluations > 1:
        raise ValueError("the loss is not finite at the first image; use smaller weights")
    recorder.save_picture(options.output, result.image)
    if options.animation:
        recorder.save_frame(result.image, evaluations + 1)
        recorder.put(options.animation, lambda path: save_animation(path, recorder.frames()))
    if options.plot:
        recorder.put(options.plot, lambda path: save_plot(path, result.history))
    recorder.remove()
    note = {
        Status.CONVERGED: ", converged",
        Status.NON_FINITE: ", stopped where the loss was no longer finite",
    }
    print(_summary(options, result) + note.get(result.status, ""))
    return 0


def _summary(options: argparse.Namespace, result: TransferResult) -> str:
    losses, sizes = result.history["loss"], result.history["size"]
    least = min(losses[sizes == sizes[-1]])  # those of other scales do not compare
    return f"{options.output}: loss {least:.4g} after {len(losses)} evaluations"


@contextmanager
def _terminable() -> Iterator[threading.Event]:
    """SIGTERM, as schedulers send it, sets the event that is yielded, and no more."""
    terminated = threading.Event()
    previous = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or previous is signal.SIG_IGN:
        yield terminated
        return
    signal.signal(signal.SIGTERM, lambda *_: terminated.set())
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, previous)


def _use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache, unless JAX was told where to keep them."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_dir() / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        _empty_when_damaged(folder)


def _empty_when_damaged(folder: Path) -> None:
    """Start a cache of JAX anew where a process was killed while it wrote to it.

    JAX only warns of a program that it cannot read, each time again, and never replaces it.
    """
    show = warnings.showwarning

    def empty(message: Warning | str, *args: Any, **options: Any) -> None:
        if "reading persistent compilation cache" not in str(message):
            return show(message, *args, **options)
        for path in folder.glob("*"):
            path.unlink(missing_ok=True)

    warnings.showwarning = empty


def _progress(scales: Sequence[Scale], quiet: bool) -> AbstractContextManager[TransferBar | None]:
    return nullcontext() if quiet or not sys.stderr.isatty() else TransferBar(scales)


def _weights_list(options: argparse.Namespace) -> int:
    for name, known in KNOWN_FILES.items():
        if name == "bundled":
            where = str(bundled_weights())
        elif place := cached(known):
            where = str(place)
        elif known.url:
            where = f"not here: jaxnst weights fetch {name}"
        else:
            where = f"not here, and not to be fetched: {known.filename}"
        print(f"{name:<12} {known.input:<12} {where}")
    return 0


def _weights_info(options: argparse.Namespace) -> int:
    found = inspect_weights(options.file)
    asked = "to be asked for: --input caffe or torchvision"
    rows = {
        "file": found.path,
        "bytes": f"{found.path.stat().st_size:,}",
        "sha256": sha256(found.path),
        "known as": found.known.name if found.known else "no published file with a known checksum",
        "container": f"{found.container}, {found.num_arrays} arrays",
        "layout": found.layout or "none of VGG19 that is known",
    }
    if found.layout:
        rows["input rule"] = found.input or asked
        rows["layers"] = "as expected" if not found.mismatches else "not those of VGG19:"
    for name, value in rows.items():
        print(f"{name:<12} {value}")
    if found.mismatches:
        print(f"\n{'array':<32} {'expected':<20} found")
    for name, shapes in sorted(found.mismatches.items()):
        expected, got = map(show_shape, shapes)
        print(f"{name:<32} {expected:<20} {got}")
    return 0


def _weights_verify(options: argparse.Namespace) -> int:
    load_params(options.file, input=options.input)
    known = identify(options.file)
    origin = f"the published file {known.name!r}" if known else "no published file that is known"
    print(f"{options.file}: a whole and finite VGG19; {origin}")
    return 0


def _weights_convert(options: argparse.Namespace) -> int:
    params = load_params(options.file, input=options.input)
    save_params(options.output, quantize_params(params) if options.quantize else params)
    print(f"{options.output}: {options.output.stat().st_size / 1e6:.1f} MB")
    return 0


def _weights_fetch(options: argparse.Namespace) -> int:
    quiet = options.quiet or not sys.stderr.isatty()
    with nullcontext() if quiet else DownloadBar(options.name) as show:
        path = fetch(KNOWN_FILES[options.name], progress=show)
    print(path)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; bad input is one line on stderr and exit status 2."""
    logging.basicConfig(format="jaxnst: %(message)s")
    options = _parser().parse_args(arguments)
    options.arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status: int = options.run(options)
    except (ValueError, TypeError, OSError) as error:
        print(f"jaxnst: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print("jaxnst: there is not enough memory for this; give a smaller --size", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        saved = hasattr(options, "output") and is_unfinished(options.output)
        rest = "; add --resume to go on from the last state saved" if saved else ""
        print(f"jaxnst: interrupted at once{rest}", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
