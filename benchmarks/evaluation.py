"""Measure one evaluation beside pastiche 1.6.0, by size; write the table and the plot of docs/.

    pip install -e '.[bench]'
    python benchmarks/evaluation.py

An evaluation is the loss, its gradient with respect to the image and a step of L-BFGS. torch keeps
two images for each step so far, up to 100 steps, and jaxnst gets room for as many. Both use large
memory pages. Each run is a process of its own, and the sides take turns: pastiche, jaxnst,
pastiche, jaxnst, and so on. Seconds, wall and processor, are those per evaluation in the second
half of a run, so they exclude start-up. Memory is the peak of the process. A ratio is that of two
runs in turn; the table has the median of the rounds, and the least and the largest.

`--tiled` adds larger pictures, square ones, of which jaxnst makes the loss and its gradient once,
in tiles.
`--compare` adds rows with XLA's convolution, in bfloat16, and with small memory pages.
"""

import argparse
import dataclasses
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from convergence import (
    Trace,
    in_process,
    make_pairs,
    make_trace,
    now,
    prepare,
    read_pixels,
    run_jaxnst,
    run_pastiche,
)

from jaxnst.__main__ import LARGE_PAGES

DOCS = Path(__file__).resolve().parents[1] / "docs"
TILE = 1024
Row = dict[str, Any]


def run_pairs(content: Path, style: Path, steps: int, **options: object) -> Trace:
    """Run jaxnst with as many pairs as torch has in the end."""
    import jaxnst

    optimizer = dataclasses.replace(jaxnst.preset("pastiche").config.optimizer, memory=steps)
    return run_jaxnst(content, style, steps, optimizer=optimizer, **options)


def run_direct(content: Path, style: Path, steps: int) -> Trace:
    """Run jaxnst with XLA's own convolution for all features."""
    from jaxnst import convolution

    convolution._fastest_on_cpu = lambda *_: convolution.direct_conv3x3
    return run_pairs(content, style, steps)


def run_bfloat16(content: Path, style: Path, steps: int) -> Trace:
    import jaxnst

    objective = dataclasses.replace(jaxnst.preset("pastiche").config.objective, dtype="bfloat16")
    return run_pairs(content, style, steps, objective=objective)


def make_square(picture: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Continue the shorter side by its mirror image."""
    side = max(picture.shape)
    return np.pad(picture, [(0, side - n) for n in picture.shape[:2]] + [(0, 0)], "symmetric")


def run_tiled(content: Path, style: Path, steps: int) -> Trace:
    """Make the loss and its gradient `steps` times, in tiles, without an optimiser."""
    from functools import partial

    import jax

    import jaxnst
    from jaxnst.compilation import compiled

    params = jaxnst.load_params()
    config, weights = jaxnst.preset("pastiche")
    objective = config.objective
    image, painted = (
        jax.device_put(make_square(read_pixels(path) / np.float32(255)))
        for path in (content, style)
    )
    tile = partial(jaxnst.compute_targets, objective=objective, tile=TILE)
    targets = compiled(tile)({"content": image, "style": painted}, params)
    del painted
    evaluate = compiled(partial(jaxnst.loss_and_grad, objective=objective, tile=TILE))
    program = evaluate.lower(image, params, targets, weights).compile()
    start = now()
    losses, clock = [], []
    for step in range(1, steps + 1):
        (loss, _), grad = jax.block_until_ready(program(image, params, targets, weights))
        losses.append(loss)
        clock.append((step, *(now() - start)))
    assert np.isfinite(np.asarray(grad)).all()
    return make_trace(losses, [(0, 0.0, 0.0), *clock])


SIDES = {"pastiche": run_pastiche, "jaxnst": run_pairs}
OTHERS = {"jaxnst, XLA's convolution": run_direct, "jaxnst, bfloat16": run_bfloat16}


def measure(size: int, side: str, run: Any, paths: list[Path], steps: int) -> Row:
    trace = in_process(run, *paths, steps)
    row = {
        "size": size,
        "side": side,
        "seconds": trace.rate,
        "processor": trace.processor_rate,
        "memory": trace.peak_memory / 1e6,
    }
    print(json.dumps(row), flush=True)
    return row


def by_size(args: argparse.Namespace) -> list[Row]:
    rows = []
    sides = SIDES | (OTHERS if args.compare else {})
    pair = make_pairs()["cat-starry"]
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as folder:
            paths = prepare(Path(folder), pair, size)
            for _ in range(args.rounds):
                for name, run in sides.items():
                    rows.append(measure(size, name, run, paths, args.steps))
                if args.compare:
                    os.environ["GLIBC_TUNABLES"] = ""
                    for name, run in SIDES.items():
                        name += ", small pages"
                        rows.append(measure(size, name, run, paths, args.steps))
                    os.environ["GLIBC_TUNABLES"] = LARGE_PAGES
    for size in args.tiled:
        with tempfile.TemporaryDirectory() as folder:
            paths = prepare(Path(folder), pair, size)
            rows.append(measure(size, "jaxnst, tiled", run_tiled, paths, 1))
    return rows


def values(rows: list[Row], size: int, side: str, key: str) -> list[float]:
    return [row[key] for row in rows if row["size"] == size and row["side"] == side]


def table(rows: list[Row]) -> str:
    """Return the medians as a Markdown table, and the ratios to pastiche with their spread."""
    lines = [
        "| size | | s | ratio | processor s | ratio | memory, MB | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size, side in dict.fromkeys((row["size"], row["side"]) for row in rows):
        cells = []
        for key in ("seconds", "processor", "memory"):
            found = values(rows, size, side, key)
            median = statistics.median(found)
            cells.append(f"{median:,.0f}" if median >= 100 else f"{median:.2f}")
            peer = values(rows, size, "pastiche", key)
            if side == "pastiche" or not peer:
                cells.append("")
                continue
            ratios = [a / b for a, b in zip(found, peer, strict=True)]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            cells.append(f"{statistics.median(ratios):.2f} ({spread})")
        lines.append(f"| {size} | {side} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(rows: list[Row], path: Path) -> None:
    """Draw seconds and memory by size, both scales logarithmic."""
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "jaxnst"
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    labels = {"seconds": "seconds per evaluation", "memory": "peak memory, MB"}
    for axes, (key, label) in zip(panels, labels.items(), strict=True):
        for side in dict.fromkeys(row["side"] for row in rows):
            sizes = sorted({row["size"] for row in rows if row["side"] == side})
            medians = [statistics.median(values(rows, size, side, key)) for size in sizes]
            axes.plot(sizes, medians, "o-", label=side)
        every = sorted({row["size"] for row in rows})
        axes.set_xscale("log")
        axes.set_xticks(every, map(str, every))
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_xlabel("long side, pixels")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="*", default=[128, 256, 512, 1024])
    parser.add_argument("--tiled", type=int, nargs="*", default=[2048, 4096], metavar="SIZE")
    parser.add_argument("--steps", type=int, default=8, help="evaluations of each run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each side")
    parser.add_argument("--compare", action="store_true", help="other convolutions and pages too")
    parser.add_argument("--rows", type=Path, help="do not measure: take these lines, as printed")
    parser.add_argument("-o", "--output", type=Path, default=DOCS, help="folder")
    args = parser.parse_args()
    os.environ["GLIBC_TUNABLES"] = LARGE_PAGES
    rows = (
        [json.loads(line) for line in args.rows.read_text().splitlines() if line.startswith("{")]
        if args.rows
        else by_size(args)
    )
    (args.output / "evaluation.md").write_text(table(rows))
    plot(rows, args.output / "evaluation.svg")
    print(table(rows))


if __name__ == "__main__":
    main()
