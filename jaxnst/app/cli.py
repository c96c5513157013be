"""The command line. The only file that prints or exits."""

import argparse
import dataclasses
import logging
import math
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax

from jaxnst.app.animation import check_animation_output, save_animation
from jaxnst.app.batch import Batch, find_contents, run_batch
from jaxnst.app.manifest import Entry, Manifest, wait_for_all
from jaxnst.app.options import choose, preset_named
from jaxnst.app.parser import make_parser
from jaxnst.app.plot import check_plot_output, save_plot
from jaxnst.app.progress import DownloadBar, JobBar, TransferBar
from jaxnst.app.runs import NUM_FRAMES, Recorder, fingerprint_of, is_unfinished, run_folder
from jaxnst.app.signals import interruptible, terminable
from jaxnst.app.sweep_folder import SweepFolder, run_sweep_folder, settings_grid, write_overview
from jaxnst.devices import is_first, join_processes, share
from jaxnst.formats import (
    KNOWN_FILES,
    bundled_weights,
    cache_dir,
    cached,
    fetch,
    identify,
    inspect_weights,
    load_params,
    quantize_params,
    save_params,
    sha256,
    show_shape,
)
from jaxnst.images import check_output, read_picture
from jaxnst.lanes import SweepProgress
from jaxnst.optimize import Status
from jaxnst.scales import Scale, finish, run_scales, schedule
from jaxnst.transfer import TransferResult, make_problem


def _transfer(options: argparse.Namespace) -> int:
    """Run `jaxnst transfer` or `jaxnst demo`; returns the exit status."""
    choice = choose(options)
    config, weights, geometry = choice
    _check_outputs(options)
    if is_unfinished(options.output) and not (options.resume or options.restart):
        raise ValueError(
            f"{run_folder(options.output)} holds an unfinished run: add --resume to go on with it, "
            "or --restart to throw it away"
        )
    content, alpha = read_picture(options.content, **dataclasses.asdict(geometry))
    styles = [read_picture(path, **dataclasses.asdict(geometry)).image for path in options.style]
    params = load_params(options.params, input=options.input)
    scales = schedule(content.shape, config)
    num_steps = sum(scale.num_steps for scale in scales)
    frame_every = max(1, num_steps // NUM_FRAMES) if options.animation else None
    every = [n for n in (options.save_every, frame_every) if n]
    recorder = Recorder(
        options.output,
        scales[-1].shape,
        fingerprint_of(content, styles, params, choice),
        alpha=alpha,
        interval=options.checkpoint_seconds,
        save_every=options.save_every,
        frame_every=frame_every,
    )
    problem = make_problem(content, styles, params=params, weights=weights, config=config)
    resume = recorder.resume() if options.resume else None
    if resume is None:
        recorder.remove()  # frames of a run that was killed before its first state, too
    _use_compilation_cache()
    with recorder.at_work():
        with (
            _progress(scales, options.quiet) as show,
            interruptible() as interrupted,
            terminable() as terminated,
        ):
            for progress in run_scales(
                jax.device_put(problem),
                config,
                resume=resume,
                every=math.gcd(*every) if every else None,
            ):
                recorder(progress)
                if show is not None:
                    show(progress)
                if interrupted.is_set() or terminated.is_set():
                    break
        stopped = interrupted.is_set() or terminated.is_set()
        image, status, history = finish(progress, scales[-1].shape, interrupted=stopped)
        result = TransferResult(image, Status(int(status)), history)
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


def _use_compilation_cache() -> None:
    """Keep compiled programs in the user's cache, unless JAX has a setting of its own."""
    if jax.config.values["jax_compilation_cache_dir"] is None:
        folder = cache_dir() / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        _empty_when_damaged(folder)


def _empty_when_damaged(folder: Path) -> None:
    """Empty JAX's cache if a process was killed while it wrote to it.

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


def _sweep(options: argparse.Namespace) -> int:
    """Run `jaxnst sweep`; returns the exit status."""
    _join_others(options)
    choice = choose(options)
    config, weights, geometry = choice
    values = {f"{name}_weight": getattr(options, f"{name}_weights") for name in weights.scales}
    values["seed"] = options.seeds
    axes = {name: list(dict.fromkeys(axis)) for name, axis in values.items() if axis}
    if not axes:
        flags = [f"--{name.replace('_', '-')}s" for name in values]
        raise ValueError(f"nothing varies: give one of {', '.join(flags)}")
    if options.seeds and config.init != "noise":
        raise ValueError("--seeds are those of the noise to start from: add --init noise")
    for seed in axes.get("seed", ()):
        dataclasses.replace(config, seed=seed)  # which refuses what is out of range
    content, alpha = read_picture(options.content, **dataclasses.asdict(geometry))
    styles = [read_picture(path, **dataclasses.asdict(geometry)).image for path in options.style]
    params = load_params(options.params, input=options.input)
    lanes = settings_grid(axes)
    settings = fingerprint_of(content, styles, params, choice) | {"sweep": repr(axes)}
    job = SweepFolder(
        content,
        styles,
        params,
        weights,
        config,
        lanes,
        settings,
        alpha=alpha,
        lane_batch=options.lane_batch,
    )
    titles = [path.stem for path in (options.content, *options.style)]
    status = _run_job(options, settings, len(share(lanes)), partial(run_sweep_folder, job))
    if is_first() and any(options.output.glob("*.png")):
        write_overview(
            job, options.output, title=f"{titles[0]} in the style of {', '.join(titles[1:])}"
        )
        print(f"{options.output / 'index.html'}: a page to walk through the sweep")
    return status


def _batch(options: argparse.Namespace) -> int:
    """Run `jaxnst batch`; returns the exit status."""
    _join_others(options)
    choice = choose(options)
    contents = share(find_contents(options.contents, options.suffix, output=options.output))
    geometry = dataclasses.asdict(choice.geometry)
    styles = [read_picture(path, **geometry).image for path in options.style]
    params = load_params(options.params, input=options.input)
    settings = fingerprint_of(None, styles, params, choice)
    job = Batch(
        styles,
        params,
        choice,
        settings,
        lanes=options.lane_batch or len(jax.local_devices()),
        multiple=options.multiple,
    )
    return _run_job(options, settings, len(contents), partial(run_batch, job, contents))


def _join_others(options: argparse.Namespace) -> None:
    given = options.coordinator, options.num_processes, options.process_id
    if options.distributed:
        join_processes(*given)
    elif any(value is not None for value in given):
        raise ValueError("--coordinator, --num-processes and --process-id go with --distributed")


def _run_job(
    options: argparse.Namespace,
    settings: dict[str, str],
    count: int,
    work: Callable[..., Iterator[Entry]],
) -> int:
    """Do this process's share of a job in a folder and report it; return the exit status."""
    if options.restart and is_first():
        Manifest(options.output).discard()
    wait_for_all("restart")
    manifest = Manifest(options.output, jax.process_index(), jax.process_count())
    manifest.open(settings)
    _use_compilation_cache()
    tally: Counter[str] = Counter()
    quiet = options.quiet or not sys.stderr.isatty() or not is_first()
    with (
        nullcontext() if quiet else JobBar(count) as show,
        interruptible() as interrupted,
        terminable() as terminated,
    ):

        def report(progress: SweepProgress) -> bool:
            if show is not None:
                show(progress)
            return terminated.is_set() or interrupted.is_set()

        for entry in work(manifest, callback=report, interrupted=interrupted):
            tally[entry["status"]] += 1
            if entry["status"] == "failed":
                print(f"jaxnst: {entry['error']}", file=sys.stderr)
            if show is not None:
                show.advance()
    if terminated.is_set() or interrupted.is_set():
        print(f"{options.output}: {_count(tally['done'])}, interrupted; the same command goes on")
        return 143 if terminated.is_set() else 130
    wait_for_all("done")
    if is_first():
        manifest.merge()
    wait_for_all("merged")
    skipped = count - tally.total()
    parts = [f"{_count(tally['done'])} made"]
    parts += [f"{skipped} there already"] * bool(skipped)
    parts += [f"{tally['failed']} could not be"] * bool(tally["failed"])
    print(f"{options.output}: {', '.join(parts)}")
    return 1 if tally["failed"] else 0


def _count(pictures: int) -> str:
    return f"{pictures} picture{'' if pictures == 1 else 's'}"


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


COMMANDS = {
    "transfer": _transfer,
    "sweep": _sweep,
    "batch": _batch,
    "weights list": _weights_list,
    "weights info": _weights_info,
    "weights verify": _weights_verify,
    "weights convert": _weights_convert,
    "weights fetch": _weights_fetch,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; bad input is one line on stderr and exit status 2."""
    logging.basicConfig(format="jaxnst: %(message)s")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = make_parser(preset_named(given)).parse_args(given)
    options.arguments = given
    try:
        status: int = COMMANDS[options.command](options)
    except (ValueError, TypeError, OSError) as error:
        print(f"jaxnst: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        print("jaxnst: there is not enough memory for this; give a smaller --size", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        saved = options.command == "transfer" and is_unfinished(options.output)
        rest = "; add --resume to go on from the last state saved" if saved else ""
        print(f"jaxnst: interrupted at once{rest}", file=sys.stderr)
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
