"""The history of a run: arrays by name, with an entry for each evaluation."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnst.optimize import Info

Array = np.ndarray[Any, Any]
History = dict[str, Array]


def history_of(infos: Sequence[Info], **constants: float) -> History:
    """Return the history of a chunk. The axis of evaluations comes after that of lanes.

    Args:
        infos: one for each step, on the host.
        **constants: further rows, each with one value for all evaluations, such as seconds.
    """
    evaluation = np.stack([info.evaluation for info in infos], axis=-1)
    axis = evaluation.ndim - 1
    values = {"loss": [info.loss for info in infos]}
    values |= {name: [info.terms[name] for info in infos] for name in infos[0].terms}
    rows = {name: np.full(evaluation.shape, value) for name, value in constants.items()}
    rows |= {name: np.stack(row, axis) for name, row in values.items()}
    return {"evaluation": evaluation} | rows


def join(histories: Sequence[History]) -> History:
    """Concatenate histories, leaving out the steps at which a state was frozen.

    If a lane made fewer evaluations than others, the rest of its row has evaluation 0 and NaN.
    """
    axis = histories[0]["evaluation"].ndim - 1
    rows = {
        name: np.concatenate([history[name] for history in histories], axis)
        for name in histories[0]
    }
    made = rows["evaluation"] > 0
    order = np.argsort(~made, axis, kind="stable")[..., : int(made.sum(axis).max())]
    made = np.take_along_axis(made, order, axis)

    def compact(row: Array) -> Array:
        extra = (1,) * (row.ndim - order.ndim)
        row = np.take_along_axis(row, order.reshape(order.shape + extra), axis)
        empty = 0 if np.issubdtype(row.dtype, np.integer) else np.nan
        return np.where(made.reshape(made.shape + extra), row, np.asarray(empty, row.dtype))

    return {name: compact(row) for name, row in rows.items()}


def last_of(history: History) -> tuple[Any, dict[str, Any]]:
    """Return the loss and the terms of the last evaluation, as floats or as arrays by lanes."""
    axis = history["evaluation"].ndim - 1
    last = {
        name: row.take(-1, axis)
        for name, row in history.items()
        if name not in ("evaluation", "seconds", "size")
    }
    last = {name: float(value) if value.ndim == 0 else value for name, value in last.items()}
    return last.pop("loss"), last
