"""A sweep in a folder: numbered pictures, a contact sheet and a page with sliders."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnst.app.inputs import Inputs, arguments_of
from jaxnst.app.jobs import Callback, IsDone, Made
from jaxnst.app.manifest import Entry
from jaxnst.app.page import write_page
from jaxnst.app.sheet import contact_sheet
from jaxnst.color import COLORS
from jaxnst.devices import share
from jaxnst.images import load_image, save_image
from jaxnst.lanes import run_lanes
from jaxnst.loss_weights import LossWeights
from jaxnst.recipes import TransferConfig
from jaxnst.scale import check_problem
from jaxnst.sweep import split_lanes
from jaxnst.vgg import Params

SHEET, PAGE = "sheet.jpg", "index.html"

Settings = dict[str, float]


def settings_grid(axes: Mapping[str, Sequence[float]]) -> list[Settings]:
    """Return the points of a grid, the last axis fastest: {"style_weight": 10.0, …}."""
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


@dataclass(frozen=True)
class SweepJob:
    """What all lanes have in common, and the settings of each.

    Attributes:
        inputs: the pictures.
        params, weights, config: as for `style_transfer`.
        lanes: of each, by the names of terms with "_weight" and by "seed", what stands in place of
            the weights' scales and the config's seed.
        settings: see `jobs.Job`.
        lane_batch: as in `sweep`.
        color: one of `COLORS`.
    """

    inputs: Inputs
    params: Params
    weights: LossWeights
    config: TransferConfig
    lanes: Sequence[Settings]
    settings: dict[str, str]
    lane_batch: int | None = None
    color: str = "style"

    @property
    def outputs(self) -> list[str]:
        """Return the pictures' names, numbered from 1 in the order of the settings."""
        digits = max(3, len(str(len(self.lanes))))
        return [f"{i:0{digits}}.png" for i in range(1, len(self.lanes) + 1)]

    @property
    def count(self) -> int:
        """Return the number of this process's pictures."""
        return len(share(self.lanes))

    def check(self) -> None:
        """Check all images and settings.

        Raises:
            TypeError, ValueError: as for `sweep`.
        """
        pick, _, _ = self._split(range(len(self.lanes)))
        check_problem(pick(0), self._arguments["config"])

    def make(
        self, is_done: IsDone, callback: Callback, stopped: Callable[[], bool]
    ) -> Iterator[Made]:
        """Make this process's lanes. Of a sweep that is stopped, pictures are those so far."""
        entries: list[Entry] = [
            {"output": output, "lane": lane, "settings": self.settings}
            for output, lane in zip(self.outputs, self.lanes, strict=True)
        ]
        there = {i for i in share(range(len(self.lanes))) if is_done(entries[i])}
        yield from (Made(entries[i]) for i in sorted(there))
        rest = [i for i in share(range(len(self.lanes))) if i not in there]
        if not rest or stopped():
            return
        pick, axes, count = self._split(rest)
        config = self._arguments["config"]
        groups = run_lanes(
            pick, count, config, axes=axes, lane_batch=self.lane_batch, callback=callback
        )
        began = time.perf_counter()
        for group, results in groups:
            made = partial(
                Made, alpha=self.inputs.alpha, seconds=(time.perf_counter() - began) / len(group)
            )
            for i, result in zip(group, results, strict=True):
                if result.history:  # else it never began
                    image = COLORS[self.color].finish(result.image, self.inputs.content)
                    yield made(entries[rest[i]], result._replace(image=image))
            began = time.perf_counter()

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        """The arguments of `sweep` but for the keys."""
        weights = self.weights.replace(
            **{
                name: np.array([settings.get(f"{name}_weight", scale) for settings in self.lanes])
                for name, scale in self.weights.scales.items()
            }
        )
        return arguments_of(self.inputs, self.params, weights, self.config, self.color)

    def _split(self, lanes: Sequence[int]) -> Any:
        def chosen(leaf: Any) -> Any:
            return leaf[list(lanes)] if np.ndim(leaf) else leaf

        weights = jax.tree.map(chosen, self._arguments["weights"])
        seeds = [int(self.lanes[lane].get("seed", self.config.seed)) for lane in lanes]
        keys = jnp.stack([jax.random.key(seed) for seed in seeds])
        return split_lanes(**self._arguments | {"weights": weights, "key": keys})


def write_overview(job: SweepJob, folder: Path, *, title: str) -> None:
    """Write the contact sheet and the page of all pictures that are there."""
    there = [lane for lane, output in enumerate(job.outputs) if (folder / output).is_file()]
    labels = [job.lanes[lane] for lane in there]

    def images() -> Iterator[jax.Array]:
        return (load_image(folder / job.outputs[lane]) for lane in there)

    if there:
        save_image(folder / SHEET, contact_sheet(images(), labels))
        write_page(folder / PAGE, job.inputs.content, images(), labels, title=title)
