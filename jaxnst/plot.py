"""The losses of a run as a plot. Needs the `plot` extra."""

import importlib.util
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jaxnst.files import check_target, replacing

_SUFFIXES = (".png", ".svg", ".pdf")


def check_plot_output(path: str | PathLike[str]) -> None:
    """Check that `save_plot` can write to `path`.

    Raises:
        FileNotFoundError, PermissionError, ValueError: as `jaxnst.files.check_target`; or
            matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise ValueError("a plot needs matplotlib: pip install 'jaxnst[plot]'")
    check_target(path, _SUFFIXES)


def plot_history(history: dict[str, np.ndarray[Any, Any]]) -> Any:
    """The loss and its terms against evaluations, and the loss against seconds.

    Args:
        history: of `style_transfer` or `minimize`.

    Returns:
        A matplotlib Figure; a change of scale is a dashed line in it.
    """
    from matplotlib.figure import Figure  # not pyplot, which asks for a screen

    evaluation, sizes = history["evaluation"], history.get("size", np.zeros(0))
    terms = [k for k in history if k not in ("evaluation", "seconds", "size")]
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for name in terms:
        values = np.where(history[name] > 0, history[name], np.nan)
        if np.isfinite(values).any():
            width = 2 if name == "loss" else 1
            left.plot(evaluation, values, label=name, linewidth=width, zorder=3 - width)
    losses = np.where(history["loss"] > 0, history["loss"], np.nan)
    right.plot(history["seconds"], losses)
    starts = [0, *(np.flatnonzero(np.diff(sizes)) + 1)] if len(sizes) else []
    for start in starts:
        for axes, places in ((left, evaluation), (right, history["seconds"])):
            if start:
                axes.axvline(places[start], color="0.7", linestyle="--", linewidth=1, zorder=0)
        left.annotate(
            f"{sizes[start]:.0f} px",
            (evaluation[start], 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -12),
            textcoords="offset points",
            color="0.4",
        )
    left.set(yscale="log", xlabel="evaluations", ylabel="loss")
    if np.isfinite(losses).any():
        left.set_ylim(bottom=np.nanmin(losses) / 300)  # a content term that begins at 0 is below
    right.set(xlabel="seconds")
    if left.lines:
        left.legend(loc="upper right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def save_plot(path: str | PathLike[str], history: dict[str, np.ndarray[Any, Any]]) -> None:
    """Write `plot_history` as PNG, SVG or PDF, as the suffix says.

    Raises:
        FileNotFoundError, PermissionError, ValueError: as `check_plot_output`.
    """
    check_plot_output(path)
    with replacing(path) as beside:
        plot_history(history).savefig(beside, format=Path(path).suffix[1:].lower(), dpi=150)
