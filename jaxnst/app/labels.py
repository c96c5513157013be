"""Labels of images, and the grid that a sweep's settings form.

A *label* is plain text, or the settings that made an image, such as
``{"style_weight": 1e3, "tv_weight": 0.1}``. A setting is a number, a zero-dimensional array, a
text, or anything that `str` can show.
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
    """The points of a grid, with one label for each.

    Attributes:
        axes: the values along each axis as texts, by the name of the axis; numbers ascend.
        cells: the index of each point's label; the last axis varies fastest.
    """

    axes: dict[str, list[str]]
    cells: list[int]


def describe(labels: Sequence[Label]) -> list[str]:
    """Write labels as short texts. If settings vary, leave out those that do not.

    >>> describe([{"style_weight": 1e3, "seed": 0}, {"style_weight": 1e-5, "seed": 0}])
    ['style 1000', 'style 1e-5']
    >>> describe(["plain texts", "stay as they are"])
    ['plain texts', 'stay as they are']
    """
    rows = _rows(labels)
    varying, names = _varying(rows), _short_names(rows)
    return [_join(row, varying, names) for row in rows]


def describe_constant(labels: Sequence[Label]) -> str:
    """Write the settings that `describe` leaves out.

    >>> describe_constant([{"style_weight": 1, "seed": 0}, {"style_weight": 2, "seed": 0}])
    'seed 0'
    """
    rows = _rows(labels)
    names = _short_names(rows)
    return _join(rows[0], names.keys() - _varying(rows), names) if rows else ""


def grid(labels: Sequence[Label]) -> Grid:
    """Find the grid of the settings that vary. A single label has a grid without axes.

    Plain texts, and settings that do not fill a grid, get a single axis "picture" numbered from 1.

    >>> grid([{"tv": 1, "style": 2}, {"tv": 0, "style": 2}])
    Grid(axes={'tv': ['0', '1']}, cells=[1, 0])
    """
    rows = _rows(labels)
    axes: dict[str, list[_Value]] = {}
    for name in _varying(rows) if len(rows) > 1 else ():
        values = list(dict.fromkeys(row[name] for row in rows if name in row))
        numbers = [value for value in values if not isinstance(value, str)]
        axes[name] = [*sorted(numbers)] if len(numbers) == len(values) else values
    places = {tuple(row.get(name) for name in axes): i for i, row in enumerate(rows)}
    # Compare the count first: a grid of many random settings would be too large to list.
    if "" not in axes and math.prod(map(len, axes.values())) == len(rows) == len(places):
        points = list(itertools.product(*axes.values()))
        if places.keys() == set(points):
            names = _short_names(rows)
            texts = {names[name]: [_show(value) for value in axes[name]] for name in axes}
            return Grid(texts, [places[point] for point in points])
    return Grid({"picture": [str(i + 1) for i in range(len(rows))]}, list(range(len(rows))))


def _rows(labels: Sequence[Label]) -> list[dict[str, _Value]]:
    """Return each label as settings with plain values; a text is a setting without a name."""
    settings = ({"": label} if isinstance(label, str) else label for label in labels)
    return [{name: _plain(value) for name, value in row.items()} for row in settings]


def _plain(value: object) -> _Value:
    if getattr(value, "ndim", None) == 0:
        value = np.asarray(value).item()
    return value if isinstance(value, bool | int | float | str) else str(value)


def _varying(rows: list[dict[str, _Value]]) -> list[str]:
    """Return the names of the settings that vary, or all names if none does."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    vary = [name for name in names if any(row.get(name) != rows[0].get(name) for row in rows)]
    return vary or names


def _short_names(rows: list[dict[str, _Value]]) -> dict[str, str]:
    """Shorten names such as "style_weight" to "style", unless two would become the same."""
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    short = {name: name.removesuffix("_weight").replace("_", " ") for name in names}
    count = Counter(short.values())
    return {name: brief if count[brief] == 1 else name for name, brief in short.items()}


def _join(row: dict[str, _Value], chosen: Collection[str], names: dict[str, str]) -> str:
    return ", ".join(
        f"{names[name]} {_show(value)}".strip() for name, value in row.items() if name in chosen
    )


def _show(value: _Value) -> str:
    """Write floats with six digits, so that float32's 0.1 stays 0.1; write 1e-5, not 1e-05."""
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{value:.6g}") if isinstance(value, float) else str(value)
