"""A sweep in a folder: numbered pictures, a manifest, a contact sheet and a page with sliders."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnst.app.manifest import Entry, Manifest, describe_run
from jaxnst.app.page import write_page
from jaxnst.app.sheet import contact_sheet
from jaxnst.devices import share
from jaxnst.images import load_image, save_image
from jaxnst.lanes import SweepProgress, run_lanes
from jaxnst.loss_weights import LossWeights
from jaxnst.optimize import Status
from jaxnst.recipes import TransferConfig
from jaxnst.sweep import split_lanes
from jaxnst.transfer import TransferResult
from jaxnst.vgg import Params

SHEET, PAGE = "sheet.jpg", "index.html"

Settings = dict[str, float]


def settings_grid(axes: Mapping[str, Sequence[float]]) -> list[Settings]:
    """The points of a grid as settings, the last axis fastest: {"style_weight": 10.0, …}."""
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]


@dataclass(frozen=True)
class SweepFolder:
    """A job: what all lanes have in common, and the settings of each.

    Attributes:
        content, styles, params, weights, config: as for `style_transfer`.
        lanes: of each, by the names of terms with "_weight" and by "seed", what stands in place of
            the weights' scales and the config's seed.
        settings: what a manifest records of the whole, and compares.
        alpha: the content's opacity, if it has any.
        lane_batch: how many lanes run at once, as for `sweep`.
    """

    content: Any
    styles: Sequence[Any]
    params: Params
    weights: LossWeights
    config: TransferConfig
    lanes: Sequence[Settings]
    settings: dict[str, str]
    alpha: Any = None
    lane_batch: int | None = None

    @property
    def outputs(self) -> list[str]:
        """The pictures' names, numbered from 1 in the order of the settings."""
        digits = max(3, len(str(len(self.lanes))))
        return [f"{i:0{digits}}.png" for i in range(1, len(self.lanes) + 1)]

    def entry(self, lane: int) -> Entry:
        """What is known of a lane beforehand."""
        return {
            "output": self.outputs[lane],
            "lane": self.lanes[lane],
            "settings": self.settings,
        }


def run_sweep_folder(
    job: SweepFolder,
    manifest: Manifest,
    *,
    interrupted: threading.Event,
    callback: Callable[[SweepProgress], object] | None = None,
) -> Iterator[Entry]:
    """Run this process's share of lanes, and yield the manifest's line about each that was run.

    Lanes that the manifest has as done are left alone. Of an interrupted sweep, the pictures so far
    are saved, and their lines have the status "interrupted".

    Args:
        job: what to do.
        manifest: of the folder, open.
        interrupted: is set when the sweep was interrupted.
        callback: as in `sweep`.
    """
    lanes = [
        lane
        for lane in share(range(len(job.lanes)))
        if not manifest.is_done(job.outputs[lane], job.entry(lane))
    ]
    if not lanes:
        return
    chosen = [job.lanes[lane] for lane in lanes]
    began = time.perf_counter()
    pick, axes, count = split_lanes(
        job.content,
        list(job.styles),
        params=job.params,
        weights=_weights(job.weights, chosen),
        config=job.config,
        key=jnp.stack([jax.random.key(int(s.get("seed", job.config.seed))) for s in chosen]),
    )
    groups = run_lanes(
        pick, count, job.config, axes=axes, lane_batch=job.lane_batch, callback=callback
    )
    for group, results in groups:
        seconds = (time.perf_counter() - began) / len(group)
        for i, result in zip(group, results, strict=True):
            if len(result.history.get("loss", ())):  # else it never began
                yield save_result(
                    manifest, job.entry(lanes[i]), result, alpha=job.alpha, seconds=seconds
                )
            if result.status is Status.INTERRUPTED:
                interrupted.set()
        began = time.perf_counter()


def _weights(weights: LossWeights, settings: Sequence[Settings]) -> LossWeights:
    """The weights with a lane for each of the settings."""
    return weights.replace(
        **{
            name: np.array([s.get(f"{name}_weight", scale) for s in settings])
            for name, scale in weights.scales.items()
        }
    )


def save_result(
    manifest: Manifest, entry: Entry, result: TransferResult, *, alpha: Any, seconds: float
) -> Entry:
    """Save a picture, then its line in the manifest, which is returned.

    Args:
        manifest: of the folder.
        entry: what is known of the picture beforehand, its `output` among it.
        result: of its transfer.
        alpha: the content's opacity, if it has any.
        seconds: that it took.
    """
    output = entry["output"]
    if result.status is Status.NON_FINITE and len(result.history["loss"]) <= 1:
        error = f"the loss of {output!r} is not finite at the start; use smaller weights"
        return manifest.append(entry | {"status": "failed", "error": error})
    path = manifest.folder / output
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, result.image, alpha=alpha)
    entry = entry | describe_run(path, result.history, result.status.name.lower(), seconds)
    if result.status is Status.INTERRUPTED:
        entry["status"] = "interrupted"
    return manifest.append(entry)


def write_overview(job: SweepFolder, folder: Path, *, title: str) -> None:
    """Write the contact sheet and the page of all pictures that are there."""
    there = [lane for lane, output in enumerate(job.outputs) if (folder / output).is_file()]
    labels = [job.lanes[lane] for lane in there]

    def images() -> Iterator[jax.Array]:
        return (load_image(folder / job.outputs[lane]) for lane in there)

    if there:
        save_image(folder / SHEET, contact_sheet(images(), labels))
        write_page(folder / PAGE, job.content, images(), labels, title=title)
