"""Plots of a run's losses. They need the `plot` extra."""

import importlib.util
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jaxnst.files import check_target, replacing


def check_plot_output(path: str | PathLike[str]) -> None:
    """Check that `save_plot` can write to `path`.

    Raises:
        FileNotFoundError, PermissionError, ValueError: as for `jaxnst.files.check_target`; or
            matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("a plot needs matplotlib: pip install 'jaxnst[plot]'")
    check_target(path, (".png", ".svg", ".pdf"))


def plot_history(history: dict[str, np.ndarray[Any, Any]]) -> Any:
    """Plot the loss and its terms against evaluations, and the loss against seconds.

    Args:
        history: arrays by name with an entry for each evaluation: evaluation, seconds, loss, each
            term, and optionally size (pixels of the long side).

    Returns:
        A matplotlib Figure. Dashed lines mark where the size changes.
    """
    from matplotlib.figure import Figure  # pyplot would need a screen

    times = [history["evaluation"], history["seconds"]]
    figure = Figure(figsize=(9, 4), layout="constrained")
    both = left, right = figure.subplots(1, 2, sharey=True)
    curves = {
        name: np.where(values > 0, values, np.nan)  # a log scale cannot show others
        for name, values in history.items()
        if name not in ("evaluation", "seconds", "size")
    }
    for name, values in curves.items():
        if np.isfinite(values).any():
            width = 2 if name == "loss" else 1
            left.plot(times[0], values, label=name, linewidth=width, zorder=3 - width)
    right.plot(times[1], curves["loss"])
    sizes = history.get("size", np.zeros(0))
    for start in np.flatnonzero(np.diff(sizes, prepend=np.nan)):  # 0 and each change
        for axes, time in zip(both, times, strict=True):
            if start:
                axes.axvline(time[start], color="0.7", linestyle="--", linewidth=1, zorder=0)
        left.annotate(
            f"{sizes[start]:.0f} px",
            (times[0][start], 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -12),
            textcoords="offset points",
            color="0.4",
        )
    left.set(yscale="log", xlabel="evaluations", ylabel="loss")
    right.set(xlabel="seconds")
    if np.isfinite(curves["loss"]).any():
        left.set_ylim(bottom=np.nanmin(curves["loss"]) / 300)  # terms may start near 0
    if left.get_legend_handles_labels()[0]:
        left.legend(loc="upper right")
    for axes in both:
        axes.grid(alpha=0.3)
    return figure


def save_plot(path: str | PathLike[str], history: dict[str, np.ndarray[Any, Any]]) -> None:
    """Write `plot_history` as PNG, SVG or PDF by the suffix; raise as `check_plot_output` does."""
    check_plot_output(path)
    with replacing(path) as beside:
        plot_history(history).savefig(beside, format=Path(path).suffix[1:].lower(), dpi=150)
