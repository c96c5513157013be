"""Curves of losses as a small picture, drawn fast enough to be drawn again each second."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Array = np.ndarray[Any, Any]

#: Pixels of a drawing for each pixel of the page, so that lines and letters are sharp.
DENSITY = 2
#: The colours of lines that are alike.
COLORS = ("#1f77b4", "#e07b00", "#2a9d5b", "#c2327a", "#7a5cc4", "#8c6d31", "#159aab", "#8a8a8a")
INK = "#222222"
_GREY, _PALE = "#666666", "#e6e6e6"
_SMOOTH = 2  # everything is drawn larger by this factor, since Pillow's lines have jagged edges
_POINTS = 2000  # of a line, at most
_UNIT = DENSITY * _SMOOTH


class Curve(NamedTuple):
    """A line over evaluations."""

    name: str  #: in the legend; empty for none
    x: Array  #: (n,)
    y: Array  #: (n,); values that are not finite leave a gap
    color: str = INK


def draw_text(text: str, width: int, color: str = INK, size: int = 12) -> Image.Image:
    """Draw a line of text, whose letters have `size` pixels of the page, cut off at a width."""
    picture = Image.new("RGB", (DENSITY * width, DENSITY * round(1.5 * size)), "white")
    font = ImageFont.load_default(size=DENSITY * size)
    ImageDraw.Draw(picture).text((0, picture.height // 2), text, color, font, anchor="lm")
    return picture


def draw_curves(
    losses: Sequence[Curve],
    terms: Sequence[Curve],
    size: tuple[int, int],
    *,
    end: float,
    marks: Sequence[tuple[float, str]] = (),
) -> Image.Image:
    """Draw losses and their terms over evaluations, on a log scale if the losses are positive.

    Args:
        losses: one or more curves, seen whole and in front of the terms.
        terms: thinner curves, cut off at 1/300 of the least loss.
        size: width and height, in pixels of the page.
        end: the last evaluation of the axis.
        marks: evaluations where dashed lines stand, if not at the start, and the text above each.

    Returns:
        A picture of `DENSITY` times as many pixels.
    """
    width, height = (_UNIT * side for side in size)
    picture = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=11 * _UNIT)
    left, right, bottom = 50 * _UNIT, width - 6 * _UNIT, height - 34 * _UNIT
    top = _draw_legend(draw, [*losses, *terms], (left, 2 * _UNIT, width), font)
    top += (16 if marks else 0) * _UNIT
    low, high, log = _range(losses, terms)
    scale = np.log10 if log else np.asarray

    def across(x: Any) -> Any:
        return left + (right - left) * np.asarray(x) / end

    def down(y: Any) -> Any:
        return bottom - (bottom - top) * (scale(y) - scale(low)) / (scale(high) - scale(low))

    for value in _log_ticks(low, high) if log else _ticks(low, high):
        y = float(down(value))
        draw.line([(left, y), (right, y)], _PALE, _UNIT)
        draw.text((left - 6 * _UNIT, y), f"{value:.4g}", _GREY, font, anchor="rm")
    for value in _ticks(0, end):
        if value % 1:
            continue
        x = float(across(value))
        draw.line([(x, top), (x, bottom)], _PALE, _UNIT)
        anchor = "ra" if x + font.getlength(f"{value:g}") / 2 > width else "ma"
        draw.text((min(x, width), bottom + 5 * _UNIT), f"{value:g}", _GREY, font, anchor=anchor)
    draw.text(((left + right) / 2, height - _UNIT), "evaluations", _GREY, font, anchor="md")
    free = 0.0
    for mark, text in marks:
        x = float(across(mark))
        for y in range(top, bottom, 7 * _UNIT) if mark > 1 else ():
            draw.line([(x, y), (x, min(y + 4 * _UNIT, bottom))], "#b0b0b0", _UNIT)
        if x >= free:
            draw.text((x, top - 4 * _UNIT), text, _GREY, font, anchor="ls")
            free = x + font.getlength(text) + 8 * _UNIT
    draw.rectangle((left, top, right, bottom), outline="#aaaaaa", width=_UNIT)
    for curves, thickness in ((terms, 1.25), (losses, 2)):
        for curve in (curve for curve in curves if len(curve.x)):
            every = math.ceil(len(curve.x) / _POINTS)
            values = curve.y[::-every].astype(float)  # the last value is always drawn
            inside = np.isfinite(values) & (values >= low)
            heights = down(np.where(inside, values, high))
            points = np.stack([across(curve.x[::-every]), heights], axis=-1)
            for part in np.split(points, np.flatnonzero(np.diff(inside)) + 1)[not inside[0] :: 2]:
                if len(part) == 1:
                    part = part + [[2 * _UNIT, 0], [0, 0]]  # a single point is a short line
                line = [*map(tuple, part.tolist())]
                draw.line(line, curve.color, round(thickness * _UNIT), joint="curve")
    return picture.reduce(_SMOOTH)


def _draw_legend(
    draw: ImageDraw.ImageDraw, curves: Sequence[Curve], place: tuple[int, int, int], font: Any
) -> int:
    """Draw the names of curves beside short lines, in rows, and return where these end below.

    Args:
        draw: draws on the picture.
        curves: those without a name are left out.
        place: the left end of the rows, their upper end, and their right end.
        font: of the names.
    """
    left, top, right = place
    x, row = left, 16 * _UNIT
    for curve in curves:
        end = x + 19 * _UNIT + math.ceil(font.getlength(curve.name))
        if curve.name and end > right and x > left:
            x, top, end = left, top + row, end - x + left
        if curve.name:
            y = top + row // 2
            draw.line([(x, y), (x + 14 * _UNIT, y)], curve.color, 2 * _UNIT)
            draw.text((x + 19 * _UNIT, y), curve.name, INK, font, anchor="lm")
            x = end + 14 * _UNIT
    return top + row + 3 * _UNIT if x > left else top


def _range(losses: Sequence[Curve], terms: Sequence[Curve]) -> tuple[float, float, bool]:
    """Return the least and the largest value to show, and whether the scale is logarithmic."""
    shown, others = (
        np.concatenate([np.zeros(0), *(curve.y[np.isfinite(curve.y)] for curve in curves)])
        for curves in (losses, terms)
    )
    if not shown.size:
        return 0.0, 1.0, False
    if log := bool(shown.min() > 0):
        others = others[others >= shown.min() / 300]
    low, high = (float(pick([*shown, *others])) for pick in (min, max))
    if log:
        return low / 1.15, high * 1.15, True
    margin = max(0.05 * (high - low), 1e-3 * max(abs(low), abs(high))) or 1.0
    return low - margin, high + margin, False


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round numbers from `low` to `high`."""
    size = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(size))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= size)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [number * step for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return some round numbers from `low` to `high` for a logarithmic scale."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        ticks = [value for value in ticks if low <= value <= high]
        if len(ticks) > 3:
            return ticks[:: math.ceil(len(ticks) / 8)]
    return _ticks(low, high)
