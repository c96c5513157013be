"""The command line: what each command does, and how it ends."""

import argparse
import dataclasses
import logging
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import jax
import numpy as np

from jaxnst.app import weights
from jaxnst.app.animation import check_animation_output, save_animation
from jaxnst.app.batch import BatchJob, find_contents
from jaxnst.app.compiled import keep_compiled_programs
from jaxnst.app.inputs import (
    Inputs,
    arguments_of,
    network_of,
    paths_of,
    read_inputs,
    read_styles,
    read_texture,
)
from jaxnst.app.jobs import run_job
from jaxnst.app.memory import is_out_of_memory, naming_a_size_that_fits
from jaxnst.app.options import choose, preset_named
from jaxnst.app.output import complain, on_terminal, say
from jaxnst.app.parser import make_parser
from jaxnst.app.plot import check_plot_output, save_plot
from jaxnst.app.progress import TransferBar
from jaxnst.app.runs import NUM_FRAMES, Recorder, fingerprint_of, is_unfinished, run_folder
from jaxnst.app.signals import interruptible, terminable
from jaxnst.app.sweep import PAGE, SHEET, SweepJob, settings_grid, write_overview
from jaxnst.devices import fit_tile, is_first, join_processes, share
from jaxnst.files import check_not_read
from jaxnst.formats import load_params
from jaxnst.images import check_output, keeps_opacity
from jaxnst.optimize import Status
from jaxnst.scales import finish, run_scales
from jaxnst.schedule import Scale, schedule
from jaxnst.texture import finish_tile
from jaxnst.transfer import TransferResult, make_problem


def _transfer(options: argparse.Namespace) -> int:
    """Run `jaxnst transfer`, `texture` or `demo`; returns the exit status."""
    choice = choose(options)
    _check_outputs(options)
    if options.command == "texture":
        choice, inputs = read_texture(options, choice)
    else:
        inputs = read_inputs(options, choice.geometry)
    config, weights, _, color, _ = choice
    if inputs.alpha is not None and not keeps_opacity(options.output):
        complain(f"JPEG has no transparency: {options.output} is laid over white")
    params = load_params(options.params, input=options.input)
    scales = schedule(inputs.content.shape, config)
    num_steps = sum(scale.num_steps for scale in scales)
    frame_every = max(1, num_steps // NUM_FRAMES) if options.animation else None
    every = [n for n in (options.save_every, frame_every) if n]
    recorder = Recorder(
        options.output,
        scales[-1].shape,
        fingerprint_of(inputs.fingerprint, params, choice),
        alpha=inputs.alpha,
        color=color,
        content=inputs.content,
        wrap=config.objective.circular,
        interval=options.checkpoint_seconds,
        save_every=options.save_every,
        frame_every=frame_every,
    )
    if options.save_every:
        steps = range(options.save_every, num_steps + 1, options.save_every)
        check_not_read((recorder.kept(step, num_steps) for step in steps), paths_of(options))
    keep_compiled_programs()
    network = network_of(choice, inputs, params, texture=options.command == "texture")
    arguments = arguments_of(inputs, network, weights, config, color)
    config = arguments["config"]
    problem = make_problem(**arguments)
    with recorder.working(), interruptible() as interrupted, terminable() as terminated:
        if is_unfinished(options.output) and not (options.resume or options.restart):
            raise ValueError(
                f"{run_folder(options.output)} holds an unfinished run: add --resume to go on with "
                "it, or --restart to throw it away"
            )
        fitting = naming_a_size_that_fits(
            scales, lambda: recorder.evaluations, choice.geometry.size
        )
        with fitting, _progress(scales, options.quiet) as show:
            for progress in run_scales(
                jax.device_put(problem),
                fit_tile(problem, config),
                resume=recorder.resume() if options.resume else None,
                every=math.gcd(*every) if every else None,
            ):
                recorder(progress)
                if show is not None:
                    show(progress)
                if interrupted.is_set() or terminated.is_set():
                    break
        stopped = interrupted.is_set() or terminated.is_set()
        shape, wrap = scales[-1].shape, config.objective.circular
        image, status, history = finish(progress, shape, interrupted=stopped, wrap=wrap)
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
    outputs = filter(None, (options.output, options.animation, options.plot))
    check_not_read(outputs, paths_of(options))


def _interrupted(
    options: argparse.Namespace, result: TransferResult, recorder: Recorder, status: int
) -> int:
    """Save what there is, and say how to go on; returns the exit status."""
    there = recorder.save()
    text = f"{_summary(options, result)}, interrupted"
    text += "; this is the picture so far" if there else "; no picture is saved"
    if is_unfinished(options.output):
        command, *given = options.arguments
        given = [word for word in given if word not in ("--resume", "--restart")]
        text += ". Go on with\n" + shlex.join(["jaxnst", command, "--resume", *given])
    say(text)
    return status


def _finished(options: argparse.Namespace, result: TransferResult, recorder: Recorder) -> int:
    """Save all that was asked for; returns the exit status."""
    evaluations = len(result.history["loss"])
    if result.status is Status.NON_FINITE and not evaluations > 1:
        raise ValueError("the loss is not finite at the first image; use smaller weights")
    tiles = options.command == "texture" and options.padding
    recorder.save_last_picture(finish_tile(result.image) if tiles else result.image)
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
    say(_summary(options, result) + note.get(result.status, ""))
    return 0


def _summary(options: argparse.Namespace, result: TransferResult) -> str:
    losses, sizes = result.history["loss"], result.history["size"]
    least = np.nanmin(losses[sizes == sizes[-1]])  # those of other scales do not compare
    return f"{options.output}: loss {least:.4g} after {len(losses)} evaluations"


def _progress(scales: Sequence[Scale], quiet: bool) -> AbstractContextManager[TransferBar | None]:
    return nullcontext() if quiet or not on_terminal() else TransferBar(scales)


def _sweep(options: argparse.Namespace) -> int:
    """Run `jaxnst sweep`; returns the exit status."""
    _join_others(options)
    choice = choose(options)
    config, weights, geometry, color, _ = choice
    values = {f"{name}_weight": getattr(options, f"{name}_weights") for name in weights.scales}
    values["seed"] = options.seeds
    axes = {name: list(dict.fromkeys(axis)) for name, axis in values.items() if axis}
    if not axes:
        flags = [f"--{name.replace('_', '-')}s" for name in values]
        raise ValueError(f"nothing varies: give one of {', '.join(flags)}")
    if options.seeds and not (config.init == "noise" or config.noise_share):
        raise ValueError("--seeds are those of the noise to start from: add --init noise")
    for seed in axes.get("seed", ()):
        dataclasses.replace(config, seed=seed)  # which refuses what is out of range
    inputs = read_inputs(options, geometry)
    params = load_params(options.params, input=options.input)
    job = SweepJob(
        inputs,
        network_of(choice, inputs, params),
        weights,
        config,
        settings_grid(axes),
        fingerprint_of(inputs.fingerprint, params, choice) | {"sweep": repr(axes)},
        lane_batch=options.lane_batch,
        color=color,
    )
    names = [*job.outputs, SHEET, PAGE]
    check_not_read((options.output / name for name in names), paths_of(options))
    keep_compiled_programs()
    job.check()
    status = run_job(job, options.output, restart=options.restart, quiet=options.quiet)
    if is_first() and any((options.output / name).exists() for name in job.outputs):
        titles = [path.stem for path in (options.content, *options.style)]
        write_overview(
            job, options.output, title=f"{titles[0]} in the style of {', '.join(titles[1:])}"
        )
        say(f"{options.output / PAGE}: a page to walk through the sweep")
    return status


def _batch(options: argparse.Namespace) -> int:
    """Run `jaxnst batch`; returns the exit status."""
    _join_others(options)
    choice = choose(options)
    contents = find_contents(options.contents, options.suffix, output=options.output)
    outputs = [options.output / content.output for content in contents]
    check_not_read(outputs, [*(c.path for c in contents), *paths_of(options)])
    if not isinstance(options.init, str | None):
        raise ValueError(f"--init {options.init} is one picture for many: run transfer for each")
    styles = read_styles(options, choice.geometry)
    params = load_params(options.params, input=options.input)
    made_of = Inputs(None, styles).fingerprint
    job = BatchJob(
        share(contents),
        styles,
        network_of(choice, Inputs(None, styles), params),
        choice,
        fingerprint_of(made_of, params, choice) | {"multiple": str(options.multiple)},
        lanes=options.lane_batch or len(jax.local_devices()),
        multiple=options.multiple,
    )
    job.check()
    keep_compiled_programs()
    return run_job(job, options.output, restart=options.restart, quiet=options.quiet)


def _check_devices() -> None:
    """Check that JAX has a device, before anything else needs one.

    Raises:
        OSError: it has none, for example for want of what `JAX_PLATFORMS` asks for.
    """
    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:  # the latter has no text
        reason = " ".join(str(error).split()).partition(" (")[0] or "the platform is not installed"
        raise OSError(f"JAX has no device to run on ({reason}): unset JAX_PLATFORMS") from error


def _join_others(options: argparse.Namespace) -> None:
    given = options.coordinator, options.num_processes, options.process_id
    if options.distributed:
        join_processes(*given)
    elif any(value is not None for value in given):
        raise ValueError("--coordinator, --num-processes and --process-id go with --distributed")


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "transfer": _transfer,
    "texture": _transfer,
    "sweep": _sweep,
    "batch": _batch,
    "weights list": weights.list_files,
    "weights info": weights.describe_file,
    "weights verify": weights.verify_file,
    "weights convert": weights.convert_file,
    "weights fetch": weights.fetch_file,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; bad input is one line on stderr and exit status 2."""
    logging.basicConfig(format="jaxnst: %(message)s")
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = make_parser(preset_named(given)).parse_args(given)
    options.arguments = given
    try:
        if not getattr(options, "distributed", False):  # else it would be too late to join others
            _check_devices()
        return COMMANDS[options.command](options)
    except (ValueError, TypeError, OSError) as error:
        complain(str(error))
        return 2
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        complain("there is not enough memory for this; give a smaller --size")
        return 2
    except KeyboardInterrupt:
        saved = COMMANDS[options.command] is _transfer and is_unfinished(options.output)
        rest = "; add --resume to go on from the last state saved" if saved else ""
        complain(f"interrupted at once{rest}")
        return 130


if __name__ == "__main__":
    sys.exit(main())
