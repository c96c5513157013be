"""Labels of images, and the grid that a sweep's settings make.

A *label* is plain text, or the settings that made an image, such as
``{"style_weight": 1e3, "tv_weight": 0.1}``. A setting is a number, a zero-dimensional array, a
text, or whatever `str` can show.
"""

import itertools
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Label = str | Mapping[str, object]

_Value = bool | int | float | str


class Grid(NamedTuple):
    """The points of a grid, each of which is one label.

    Attributes:
        axes: by name, the values as texts; numbers ascend.
        cells: for each point, the last axis fastest, which label it is.
    """

    axes: dict[str, list[str]]
    cells: list[int]


def describe(labels: Sequence[Label]) -> list[str]:
    """Write labels as short texts such as "style 1000, tv 0.1"; plain texts stay as they are.

    Settings that are the same for all are left out, unless nothing varies.

    Raises:
        TypeError: ``labels`` is no list of settings or texts.
    """
    rows = _rows(labels)
    telling, names = _telling(rows), _short_names(rows)
    return [_join(row, telling, names) for row in rows]


def describe_constant(labels: Sequence[Label]) -> str:
    """Write the settings that `describe` leaves out, as it writes the others.

    Raises:
        TypeError: ``labels`` is no list of settings or texts.
    """
    rows = _rows(labels)
    names = _short_names(rows)
    return _join(rows[0], names.keys() - _telling(rows), names) if rows else ""


def grid(labels: Sequence[Label]) -> Grid:
    """Find the grid of the settings that vary; of a single label, it has no axes.

    Where the labels are no full grid, or plain texts, there is one axis "picture" with their
    numbers from 1.

    Raises:
        TypeError: ``labels`` is no list of settings or texts.
    """
    rows = _rows(labels)
    axes: dict[str, list[_Value]] = {}
    for name in _telling(rows) if len(rows) > 1 else ():
        values = list(dict.fromkeys(row[name] for row in rows if name in row))
        numbers = [value for value in values if not isinstance(value, str)]
        axes[name] = [*sorted(numbers)] if len(numbers) == len(values) else values
    places = {tuple(row.get(name) for name in axes): i for i, row in enumerate(rows)}
    # The count first: of many settings drawn at random, the product can be astronomic.
    if "" not in axes and math.prod(map(len, axes.values())) == len(rows) == len(places):
        points = list(itertools.product(*axes.values()))
        if places.keys() == set(points):
            names = _short_names(rows)
            texts = {names[name]: [_show(value) for value in axes[name]] for name in axes}
            return Grid(texts, [places[point] for point in points])
    return Grid({"picture": [str(i + 1) for i in range(len(rows))]}, list(range(len(rows))))


def _rows(labels: Sequence[Label]) -> list[dict[str, _Value]]:
    """Each label as settings of plain values; a text is one setting without a name."""
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise TypeError(f"labels is a {type(labels).__name__}: give a list of settings or texts")
    rows = []
    for i, label in enumerate(labels):
        if not isinstance(label, str | Mapping):
            raise TypeError(
                f'labels[{i}] is {label!r}: give settings such as {{"style_weight": 1e3}}, or text'
            )
        settings = {"": label} if isinstance(label, str) else label
        rows.append({str(name): _plain(value) for name, value in settings.items()})
    return rows


def _plain(value: object) -> _Value:
    if getattr(value, "ndim", None) == 0:
        value = np.asarray(value).item()
    return value if isinstance(value, bool | int | float | str) else str(value)


def _telling(rows: list[dict[str, _Value]]) -> list[str]:
    """Names of the settings that vary; of all settings where none does."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    vary = [name for name in names if any(row.get(name) != rows[0].get(name) for row in rows)]
    return vary or names


def _short_names(rows: list[dict[str, _Value]]) -> dict[str, str]:
    """Such as "style" for "style_weight", unless two settings would be called the same."""
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    short = {name: name.removesuffix("_weight").replace("_", " ") for name in names}
    count = Counter(short.values())
    return {name: brief if count[brief] == 1 else name for name, brief in short.items()}


def _join(row: dict[str, _Value], chosen: Collection[str], names: dict[str, str]) -> str:
    return ", ".join(
        f"{names[name]} {_show(value)}".strip() for name, value in row.items() if name in chosen
    )


def _show(value: _Value) -> str:
    """Six digits, which hide that float32's 0.1 is 0.10000000149; 1e-5 rather than 1e-05."""
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.6g}") if isinstance(value, float) else str(value)
