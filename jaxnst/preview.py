"""A picture and its losses in a notebook, updated in place while a run goes on.

They are drawn on one JPEG image, which every notebook can show and keep.
"""

import base64
import io
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from jaxnst.curves import COLORS, DENSITY, INK, Curve, draw_curves, draw_text
from jaxnst.decode import quantize
from jaxnst.history import History
from jaxnst.images import check_positive_integer
from jaxnst.lanes import SweepProgress
from jaxnst.minimize import Progress
from jaxnst.optimize import Status

_CURVES = 440  # width of the curves, in pixels of the page
_GAP = 14  # between pictures


def live_preview(
    *, size: int = 360, seconds: float = 1.0
) -> Callable[[Progress | SweepProgress], None]:
    """Return a callback that shows the picture so far and the curves of its losses in a notebook.

    It is for `style_transfer`, `synthesize_texture`, `sweep` and `minimize`. The output of the cell
    is updated in place, and the last record of a finished run is always shown. The lanes of a sweep
    stand side by side, above the curves of their losses. If the `x` of a `minimize` does not have
    the shape (H, W, 3) of an image, only the curves are shown.

    One callback may serve several runs, one after another; each has an output of its own. In a
    script, outside IPython, nothing is shown; IPython in a terminal prints a line for each update.

    Args:
        size: the long side of a picture on the page, in pixels, whatever its own size.
        seconds: about how many seconds pass between two updates, if evaluations are not slower.

    Returns:
        A function of a `Progress` or a `SweepProgress`. It returns None, so it never ends the run.

    Raises:
        ImportError: IPython is not installed.
        ValueError: `size` is not a positive integer, or `seconds` is negative.

    >>> import jax, jax.numpy as jnp, jaxnst
    >>> def loss(image, target):
    ...     return jnp.mean((image - target) ** 2)
    >>> result = jaxnst.minimize(
    ...     jax.value_and_grad(loss),
    ...     jnp.zeros((24, 32, 3)),
    ...     0.5,
    ...     optimizer=jaxnst.Adam(learning_rate=0.02),
    ...     num_steps=20,
    ...     callback=jaxnst.live_preview(),
    ... )
    >>> print(result.status)
    Status.OK
    """
    check_positive_integer("size", size)
    if not seconds >= 0:
        raise ValueError(f"seconds must be 0 or more, not {seconds!r}")
    try:
        import IPython  # noqa: F401
    except ImportError as error:
        raise ImportError("live_preview needs IPython: pip install 'jaxnst[notebooks]'") from error
    return _Preview(size, seconds)


class _Lane(NamedTuple):
    """What is shown of a lane."""

    picture: Image.Image | None  #: None if `x` is no image
    history: History  #: rows (n,)
    words: str  #: its loss, and its status unless that is OK


class _Preview:
    """The callback of `live_preview`."""

    def __init__(self, size: int, seconds: float) -> None:
        self.size, self.seconds = size, seconds
        self.cell = 0  # that showed the last record
        self.place: tuple[float, ...] = (math.inf,)  # of that record in its run, or after all

    def __call__(self, progress: Progress | SweepProgress) -> None:
        """Show a record, unless the last update was a moment ago."""
        from IPython import get_ipython

        shell = get_ipython()
        if shell is None:
            return
        if not isinstance(progress, SweepProgress):
            progress = SweepProgress(range(1), 1, _as_lane(progress))
        lanes, count, record = progress
        place, now = (lanes.start, record.evaluation, record.seconds), time.perf_counter()
        if place < self.place or shell.execution_count != self.cell:  # a run begins or is resumed
            self.cell = shell.execution_count
            self.lanes: dict[int, _Lane] = {}
            self.handle: Any = None
            self.due = now
            self.columns, self.side = _grid(count, self.size)
        finished = bool(np.all(record.done))  # these lanes
        self.place = (math.inf,) if finished and lanes.stop == count else place
        if now < self.due and not finished:
            return
        # Due times are added up: a call that comes a little early delays one update, not each.
        self.due = self.due + self.seconds if self.due + self.seconds > now else now + self.seconds
        x = jax.device_get(record.x)
        for row, lane in enumerate(lanes):
            self.lanes[lane] = _look(record, row, x[row], self.side)
        self.show(_caption(progress, self.lanes[lanes.start]), count, record.num_steps)

    def show(self, caption: str, count: int, num_steps: int) -> None:
        """Show all lanes in the place of what was shown before."""
        from IPython.display import display

        if count == 1:
            body = _one(self.lanes[0], num_steps)
        else:
            lanes = [self.lanes.get(lane) for lane in range(count)]
            body = _several(lanes, num_steps, self.columns, width=self.size + _GAP + _CURVES)
        page = _join([draw_text(caption, body.width // DENSITY, size=13), body], down=True)
        file = io.BytesIO()
        page.save(file, "JPEG", quality=85)
        encoded = base64.b64encode(file.getvalue()).decode("ascii")
        bundle = {"image/jpeg": encoded, "text/plain": caption}
        size = {"width": page.width // DENSITY, "height": page.height // DENSITY}
        options: dict[str, Any] = {"raw": True, "metadata": {"image/jpeg": size}}
        if self.handle is None:
            self.handle = display(bundle, display_id=True, **options)
        else:
            self.handle.update(bundle, **options)


def _as_lane(progress: Progress) -> Progress:
    """Return the record of one run with a leading axis of one lane."""
    return progress._replace(
        loss=np.asarray([progress.loss]),
        x=[progress.x],
        history={name: row[None] for name, row in progress.history.items()},
        status=np.asarray([progress.status]),
        done=np.asarray([progress.done]),
    )


def _look(record: Progress, row: int, x: Any, size: int) -> _Lane:
    """Take from a record what is shown of the lane in this row."""
    made = record.history["evaluation"][row] > 0  # a lane may be behind the others
    history = {
        name: rows[row][made] for name, rows in record.history.items() if rows[row].ndim == 1
    }
    status = Status(int(record.status[row]))
    words = "" if status is Status.OK else ", " + status.name.lower().replace("_", " ")
    return _Lane(_picture(x, size), history, f"loss {record.loss[row]:.4g}{words}")


def _picture(x: Any, size: int) -> Image.Image | None:
    """Return an image with the size at which it is shown, or None if it is no image."""
    if not isinstance(x, np.ndarray) or x.ndim != 3 or x.shape[2] != 3 or not x.size:
        return None
    height, width, _ = x.shape
    skip = math.ceil(max(height, width) / (2 * DENSITY * size))  # quick, before filtering
    values = np.nan_to_num(x[::skip, ::skip].astype(np.float32))
    scale = size / max(height, width)
    shape = [DENSITY * max(1, round(scale * side)) for side in (width, height)]
    picture = Image.fromarray(quantize(np.clip(values, 0, 1)))
    return picture.resize((shape[0], shape[1]), Image.Resampling.BICUBIC, reducing_gap=2.0)


def _caption(progress: SweepProgress, lane: _Lane) -> str:
    lanes, count, record = progress
    words = [f"evaluation {record.evaluation} of {record.num_steps}"]
    if count == 1:
        words.append(lane.words)
    else:
        first, last = lanes[0], lanes[-1]
        words.insert(0, f"lane {first}" if first == last else f"lanes {first} to {last}")
    if lane.picture:
        height, width = record.x[0].shape[:2]
        words.append(f"{width} x {height} pixels")
    return "    ".join([*words, f"{record.seconds:.0f} s"])


def _one(lane: _Lane, num_steps: int) -> Image.Image:
    """Return the picture of a run, with the curves of its loss and terms beside it."""
    history = lane.history
    names = [name for name in history if name not in ("evaluation", "seconds", "size", "loss")]
    terms = [
        Curve(name, history["evaluation"], history[name], COLORS[i % len(COLORS)])
        for i, name in enumerate(names)
    ]
    loss = Curve("loss", history["evaluation"], history["loss"], INK)
    picture = [] if lane.picture is None else [lane.picture]
    height = min(max(200, *(p.height // DENSITY for p in picture)), 300) if picture else 260
    marks = _marks(history)
    curves = draw_curves([loss], terms, (_CURVES, height), end=num_steps, marks=marks)
    return _join([*picture, curves])


def _several(
    lanes: Sequence[_Lane | None], num_steps: int, columns: int, *, width: int
) -> Image.Image:
    """Return the pictures of all lanes in rows, with the curves of their losses below."""
    begun = [lane for lane in lanes if lane]
    shape = next(lane.picture.size for lane in begun if lane.picture)
    blank = Image.new("RGB", shape, "#eeeeee")
    cells, losses = [], []
    for number, lane in enumerate(lanes):
        color = COLORS[number % len(COLORS)]
        picture = lane.picture if lane and lane.picture else blank
        text = f"{number}  {lane.words if lane else ''}"
        label = draw_text(text, picture.width // DENSITY, color)
        cells.append(_join([label, picture], down=True))
        if lane:
            history = lane.history
            losses.append(Curve("", history["evaluation"], history["loss"], color))
    marks = max((_marks(lane.history) for lane in begun), key=len)
    rows = [_join(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    curves = draw_curves(losses, [], (width, 220), end=num_steps, marks=marks)
    return _join([*rows, curves], down=True)


def _grid(count: int, size: int) -> tuple[int, int]:
    """Return the columns of a grid of pictures and the long side of each, in pixels of the page."""
    rows = math.ceil(count / max(4, math.ceil(math.sqrt(2 * count))))
    columns = math.ceil(count / rows)
    width = size + _GAP + _CURVES
    return columns, max(1, min(size, (width - (columns - 1) * _GAP) // columns))


def _marks(history: History) -> list[tuple[float, str]]:
    """Return the evaluation at which each scale begins, with its size."""
    sizes = history.get("size", np.zeros(0))
    starts = np.flatnonzero(np.diff(sizes, prepend=-1))
    return [(float(history["evaluation"][i]), f"{sizes[i]:.0f} px") for i in starts]


def _join(pictures: Sequence[Image.Image], *, down: bool = False) -> Image.Image:
    """Paste pictures side by side, or one below the other, on white."""
    gap = DENSITY * (4 if down else _GAP)
    along = [picture.height if down else picture.width for picture in pictures]
    across = max(picture.width if down else picture.height for picture in pictures)
    length = sum(along) + gap * (len(pictures) - 1)
    whole = Image.new("RGB", (across, length) if down else (length, across), "white")
    place = 0
    for picture, extent in zip(pictures, along, strict=True):
        whole.paste(picture, (0, place) if down else (place, 0))
        place += extent + gap
    return whole
