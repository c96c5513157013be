"""Time and memory of sweeps of 1 to 16 lanes, beside loops of single runs and of pastiche 1.6.0.

    pip install -e '.[bench]'
    python benchmarks/sweep.py

All have the same pictures, objective, network and number of evaluations; lanes differ in their
style weight. Each figure comes from its own process; they run one after another. Seconds are
counted after the imports, so they include loading and compilation (processes share no cache); "s
per lane and evaluation" is the cost of one more evaluation, without these.
"""

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from convergence import Trace, in_process, make_pairs, make_trace, prepare, read_pixels

LANES = (1, 2, 4, 8, 16)


def style_weights(count: int) -> npt.NDArray[np.float32]:
    return np.geomspace(1, 100, count, dtype=np.float32)


def run_sweep(content: Path, style: Path, steps: int, lanes: int) -> Trace:
    """Run one sweep of all lanes at once."""
    import jaxnst

    start = time.perf_counter()
    clock = []
    config, weights = jaxnst.preset("pastiche")
    results = jaxnst.sweep(
        read_pixels(content) / np.float32(255),
        read_pixels(style) / np.float32(255),
        params=jaxnst.load_params(),
        weights=weights.replace(style=style_weights(lanes)),
        config=dataclasses.replace(config, num_steps=steps),
        lane_batch=lanes,
        callback=lambda record: clock.append(
            (record.progress.evaluation, time.perf_counter() - start)
        ),
    )
    clock.append((steps, time.perf_counter() - start))
    return make_trace(results.history["loss"].mean(axis=0), clock)


def run_loop(content: Path, style: Path, steps: int, lanes: int) -> Trace:
    """Run one transfer after another."""
    import jaxnst

    start = time.perf_counter()
    clock = []
    config, weights = jaxnst.preset("pastiche")
    config = dataclasses.replace(config, num_steps=steps)
    params = jaxnst.load_params()
    losses: list[Any] = []
    for weight in style_weights(lanes):
        result = jaxnst.style_transfer(
            read_pixels(content) / np.float32(255),
            read_pixels(style) / np.float32(255),
            params=params,
            weights=weights.replace(style=weight),
            config=config,
        )
        losses.extend(result.history["loss"])
        clock.append((len(losses), time.perf_counter() - start))
    return make_trace(losses, clock)


def run_pastiche_loop(content: Path, style: Path, steps: int, lanes: int) -> Trace:
    """Run pastiche as often, which loads its network again for each run."""
    from pastiche.pastiche import PasticheArtist
    from PIL import Image

    start = time.perf_counter()
    clock, losses = [], []
    size, style_size = (Image.open(path).size[::-1] for path in (content, style))
    for weight in style_weights(lanes):
        artist = PasticheArtist(
            content, [style], size=size, style_size=style_size, style_weights=[float(weight)]
        )
        for _ in range(steps):
            artist.draw()
            losses.append(artist.loss)
        clock.append((len(losses), time.perf_counter() - start))
    return make_trace(losses, clock)


def pace(trace: Trace, lanes: int, steps: int) -> float:
    """Return the seconds per lane and evaluation after loading and compilation.

    For a sweep they are measured in its second half, for a loop in all runs after the first.
    """
    if len(trace.losses) == steps:
        return trace.rate / lanes
    (n0, t0), (n1, t1) = trace.clock[0], trace.clock[-1]
    return float((t1 - t0) / (n1 - n0))


def report(
    size: int, steps: int, sweeps: dict[int, Trace], loop: Trace, peer: Trace, peer_runs: int
) -> None:
    print(f"\n== {size} pixels, {steps} evaluations each")
    print(f"{'lanes':>8}{'seconds':>10}{'s per lane':>12}{'/ loop':>8}{'/ pastiche':>12}", end="")
    print(f"{'s per lane and evaluation':>28}{'MB':>8}{'MB per lane':>13}")
    single = sweeps[1].peak_memory
    for lanes, trace in sweeps.items():
        seconds = trace.clock[-1, 1]
        in_loop = loop.clock[lanes - 1, 1]
        # All runs of pastiche take equally long.
        with_peer = peer.clock[-1, 1] / peer_runs * lanes
        extra = (trace.peak_memory - single) / (lanes - 1) / 1e6 if lanes > 1 else float("nan")
        print(
            f"{lanes:>8}{seconds:>10.1f}{seconds / lanes:>12.2f}{seconds / in_loop:>8.2f}"
            f"{seconds / with_peer:>12.2f}{pace(trace, lanes, steps):>28.3f}"
            f"{trace.peak_memory / 1e6:>8.0f}{extra:>13.0f}".replace("nan", "  -")
        )
    for name, trace, runs in (("loop", loop, len(loop.clock)), ("pastiche", peer, peer_runs)):
        seconds = trace.clock[-1, 1]
        rate = pace(trace, 1, steps) if runs > 1 else float("nan")
        print(
            f"{name:>8}{seconds:>10.1f}{seconds / runs:>12.2f}{'':>20}{rate:>28.3f}"
            f"{trace.peak_memory / 1e6:>8.0f}   ({runs} runs)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256])
    parser.add_argument("--lanes", type=int, nargs="+", default=LANES)
    parser.add_argument("--steps", type=int, default=10, help="evaluations of each run")
    parser.add_argument("--peer-runs", type=int, default=3, help="runs of pastiche")
    args = parser.parse_args()
    lanes = sorted({1, *args.lanes})
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            paths = prepare(Path(folder), make_pairs()["cat-starry"], size)
            sweeps = {n: in_process(run_sweep, *paths, args.steps, n) for n in lanes}
            loop = in_process(run_loop, *paths, args.steps, lanes[-1])
            peer = in_process(run_pastiche_loop, *paths, args.steps, args.peer_runs)
        report(size, args.steps, sweeps, loop, peer, args.peer_runs)


if __name__ == "__main__":
    main()
