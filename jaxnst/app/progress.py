"""Progress bars, on standard error."""

import operator
from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import ArrayLike
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as ProgressBar

from jaxnst.lanes import SweepProgress
from jaxnst.minimize import Progress
from jaxnst.schedule import Scale


class _Bar:
    """A bar that is shown within its `with` block."""

    def __init__(self, *columns: ProgressColumn) -> None:
        self.bar = ProgressBar(*columns, console=Console(stderr=True))

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


class TransferBar(_Bar):
    """A callback that shows a transfer's evaluations, losses and remaining time."""

    def __init__(self, scales: Sequence[Scale]) -> None:
        super().__init__(
            TextColumn("{task.fields[evaluations]}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        # The bar counts pixels, because an evaluation at twice the size takes four times as long.
        self.pixels = [height * width for (height, width), _ in scales]
        self.steps = [scale.num_steps for scale in scales]
        total = sum(map(operator.mul, self.pixels, self.steps))
        self.task = self.bar.add_task("compiling …", total=total, evaluations="")

    def __call__(self, progress: Progress) -> None:
        """Show the state of the run."""
        scale, before = progress.state.scale, progress.state.evaluations_before
        earlier = sum(map(operator.mul, self.pixels[:scale], self.steps[:scale]))
        done = earlier + self.pixels[scale] * (progress.evaluation - before)
        terms = "  ".join(f"{name} {value:.4g}" for name, value in progress.terms.items() if value)
        height, width = progress.x.shape[:2]
        self.bar.update(
            self.task,
            completed=done,
            evaluations=f"{progress.evaluation}/{progress.num_steps}",
            description=f"{width}x{height}  loss {progress.loss:.4g}  {terms}",
        )


class JobBar(_Bar):
    """A callback that shows the pictures done and the remaining time of a sweep or batch."""

    def __init__(self, count: int) -> None:
        super().__init__(
            TextColumn("{task.fields[pictures]}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self.count, self.done = count, 0
        self.task = self.bar.add_task("starting …", total=count, pictures=f"0/{count}")

    def __call__(self, sweep: SweepProgress) -> None:
        """Show the progress of the pictures being made."""
        evaluation, num_steps, loss = sweep.progress[:3]
        height, width = sweep.progress.x.shape[1:3]
        self.bar.update(
            self.task,
            completed=self.done + len(sweep.lanes) * evaluation / num_steps,
            description=f"{width}x{height}  {evaluation}/{num_steps}  loss {_range(loss)}",
        )

    def advance(self) -> None:
        """Count one more picture as done."""
        self.done += 1
        self.bar.update(self.task, completed=self.done, pictures=f"{self.done}/{self.count}")


def _range(numbers: ArrayLike) -> str:
    low, high = np.nanmin(numbers), np.nanmax(numbers)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


class DownloadBar(_Bar):
    """A callback that shows the bytes and the remaining time of a download."""

    def __init__(self, name: str) -> None:
        super().__init__(
            TextColumn(name),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
        )
        self.task = self.bar.add_task(name, total=None)

    def __call__(self, done: int, total: int | None) -> None:
        """Show the bytes done, of `total` if that is known."""
        self.bar.update(self.task, completed=done, total=total)
