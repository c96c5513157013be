"""Keep on disk what a run needs to continue after it was cut off."""

import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxnst
from jaxnst.app import checkpoint
from jaxnst.app.options import Choice
from jaxnst.color import COLORS
from jaxnst.files import check_target, locked, move_into_place
from jaxnst.images import keeps_opacity, load_image, save_image
from jaxnst.minimize import Progress
from jaxnst.pyramid import resize
from jaxnst.scales import TransferState

_log = logging.getLogger(__name__)

#: Number of frames in an animation, and the long side of each in pixels.
NUM_FRAMES = 60
FRAME_SIZE = 512

_FRAMES = "frame-" + "[0-9]" * 9 + ".png"
_UNFINISHED = "unfinished-"


def settings_of(choice: Choice) -> dict[str, str]:
    """Return all settings of a recipe that a picture depends on, by the names of their options."""
    config, weights, geometry, color, rescale = choice
    settings = _fields(config) | _fields(config.objective) | _fields(geometry)
    # A run that lacked memory may go on in smaller tiles, which change only the last bits.
    for name in ("objective", "terms", "tile"):
        del settings[name]
    for name, term in config.objective.terms.items():
        # The name of a term alone may also be that of a picture.
        settings |= {f"{name}_{key}": value for key, value in _fields(term).items()}
        settings[f"{name}_term"] = type(term)
    settings |= _fields(config.optimizer) | {"optimizer": type(config.optimizer)}
    settings |= {f"{name}_weight": scale for name, scale in weights.scales.items()}
    settings["layer_weights"] = weights.layers
    settings |= {"color": color, "rescale": rescale}
    return {name: _text(value) for name, value in settings.items()}


def _fields(value: Any) -> dict[str, Any]:
    # Without "wrap", which the padding decides.
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name != "wrap"}


def _text(value: Any) -> str:
    """Return a setting as text that is the same in every process; functions by their names."""
    return str(getattr(value, "__qualname__", None) or repr(value))


def fingerprint_of(
    pictures: checkpoint.Fingerprint, params: Any, choice: Choice
) -> checkpoint.Fingerprint:
    """Return all that determines how a picture looks, by the names of the options."""
    return settings_of(choice) | pictures | {"params": checkpoint.digest(params)}


def versions() -> dict[str, str]:
    """Return the versions, which also determine the last bits of a picture."""
    return {"jaxnst": jaxnst.__version__, "jax": jax.__version__}


@dataclasses.dataclass
class Recorder:
    """Saves states, pictures and frames during a run: call it with each record of the run.

    Unfinished files are in a folder beside the picture, under names that only jaxnst uses.

    Attributes:
        output: the path of the picture.
        shape: (height, width) of the finished picture and of all that are saved before.
        fingerprint: describes the run to which the states belong.
        alpha: the content's opacity, if it has any.
        color: how a picture gets its final colours, one of `COLORS`.
        content: the content, whose colours these may be.
        wrap: whether the picture tiles the plane.
        interval: seconds between two states; 0 saves only the last one.
        save_every: evaluations between two pictures that are kept; None for none.
        frame_every: evaluations between two frames of an animation; None for none.
        latest: the last record with a finite loss.
        newest: the evaluation of the newest saved state.
        saved: the time of the last attempt to save a state.
    """

    output: Path
    shape: tuple[int, int]
    fingerprint: checkpoint.Fingerprint
    alpha: Any = None
    color: str = "style"
    content: Any = None
    wrap: bool = False
    interval: float = 60.0
    save_every: int | None = None
    frame_every: int | None = None
    latest: Progress | None = None
    newest: int | None = None
    saved: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """Return the folder of the unfinished run."""
        return run_folder(self.output)

    @property
    def evaluations(self) -> int:
        """Return the number of evaluations made so far, before a resumed run's start too."""
        return self.newest or 0 if self.latest is None else self.latest.evaluation

    def kept(self, evaluation: int, num_steps: int) -> Path:
        """Return the path of the picture that is kept after this many evaluations."""
        digits = len(str(num_steps))
        return self.output.with_name(
            f"{self.output.stem}_{evaluation:0{digits}}{self.output.suffix}"
        )

    def __call__(self, progress: Progress) -> None:
        """Save what is due, provided that some loss was finite."""
        if not np.isfinite(progress.history["loss"]).any():
            return
        if self.latest is None and self.newest is None:
            self.remove()  # the earlier run is removed only now that this one works
        self.latest = progress
        if self.save_every and progress.evaluation % self.save_every == 0:
            kept = self.kept(progress.evaluation, progress.num_steps)
            _attempt(self.save_picture, kept, progress.x)
        if self.frame_every and progress.evaluation % self.frame_every == 0:
            _attempt(self.save_frame, progress.x, progress.evaluation)
        if self.interval and time.monotonic() - self.saved >= self.interval:
            self.save()

    def save(self) -> bool:
        """Save the state and the picture so far; return whether the picture is saved."""
        if self.latest is None:
            return False
        there = _attempt(self.save_picture, self.output, self.latest.x)
        # Saving the same state again would first remove the one on disk.
        if self.newest != self.latest.evaluation:
            _attempt(self.save_state, self.latest)
        self.saved = time.monotonic()
        return there

    def save_state(self, progress: Progress) -> None:
        """Save the state from which `resume` continues."""
        state = progress.state
        arrays = {"scale": state.scale, "evaluations_before": state.evaluations_before}
        arrays |= {f"leaf {i}": leaf for i, leaf in enumerate(state.leaves)}
        arrays |= {f"history {name}": rows for name, rows in state.history.items()}
        checkpoint.save(self.folder, progress.evaluation, arrays, self.fingerprint | versions())
        self.newest = progress.evaluation

    def resume(self) -> TransferState:
        """Return the newest state.

        Raises:
            ValueError: there is no state, or it belongs to another run.
        """
        arrays = checkpoint.restore(self.folder, self.fingerprint | versions())
        history = {
            name.removeprefix("history "): rows
            for name, rows in arrays.items()
            if name.startswith("history ")
        }
        leaves = [leaf for name, leaf in arrays.items() if name.startswith("leaf ")]
        self.newest = len(history["loss"])
        return TransferState(int(arrays["scale"]), arrays["evaluations_before"], leaves, history)

    def save_last_picture(self, image: Any) -> None:
        """Save the finished picture, in a temporary folder if `output` cannot be written.

        Raises:
            OSError: `output` cannot be written; the message names the temporary folder.
        """
        try:
            self.save_picture(self.output, image)
        except OSError as error:
            if self.latest is not None and self.newest != self.latest.evaluation:
                _attempt(self.save_state, self.latest)
            elsewhere = Path(tempfile.mkdtemp(prefix="jaxnst-")) / self.output.name
            save_image(elsewhere, self.finished(image, self.shape), alpha=self.alpha)
            raise OSError(f"{error}; the finished picture is {str(elsewhere)!r}") from error

    def save_picture(self, path: Path, image: Any) -> None:
        """Save a picture in its final shape and colours."""
        image, alpha = self.finished(image, self.shape), self.alpha
        if alpha is not None and not keeps_opacity(path):  # `save_image` would warn each time
            image, alpha = image * alpha[..., None] + (1 - alpha[..., None]), None
        self.put(path, lambda beside: save_image(beside, image, alpha=alpha))

    def put(self, path: Path, write: Callable[[Path], object]) -> None:
        """Write a file in the folder of the run, then move it to its place.

        A process that is killed therefore leaves no incomplete file in the user's folder.
        """
        check_target(path, (path.suffix.lower(),))
        self.folder.mkdir(exist_ok=True)
        whole = self.folder / f"{_UNFINISHED}{path.name}"
        try:
            write(whole)
            move_into_place(whole, path)
        except OSError as error:
            whole.unlink(missing_ok=True)
            # With the name that the user knows.
            reason = error.strerror or error
            raise OSError(f"{str(path)!r} cannot be written: {reason}") from error

    def save_frame(self, image: Any, evaluation: int) -> None:
        """Save a frame for the animation, in a lossless file."""
        ratio = min(1.0, FRAME_SIZE / max(self.shape))
        shape = tuple(max(1, round(side * ratio)) for side in self.shape)
        self.folder.mkdir(exist_ok=True)
        save_image(self.folder / f"frame-{evaluation:09}.png", self.finished(image, shape))

    def finished(self, image: Any, shape: Sequence[int]) -> jax.Array:
        """Return an image in a shape, (height, width), and in its final colours."""
        content = self.content
        if content is not None:
            content = resize(content, *shape, wrap=self.wrap)
        return COLORS[self.color].finish(resize(image, *shape, wrap=self.wrap), content)

    def frames(self) -> Iterator[np.ndarray[Any, Any]]:
        """Yield all frames so far, including those from before a run was cut off."""
        for path in sorted(self.folder.glob(_FRAMES)):
            yield np.asarray(load_image(path))

    @contextmanager
    def working(self) -> Iterator[None]:
        """Make the folder and lock it; remove it in the end, unless it holds a state.

        Raises:
            BlockingIOError: another process is making the same picture.
        """
        self.folder.mkdir(exist_ok=True)
        with locked(self.folder):
            try:
                yield
            finally:
                if not is_unfinished(self.output):
                    self.remove()
                with suppress(OSError):  # not empty
                    self.folder.rmdir()

    def remove(self) -> None:
        """Remove the files of the unfinished run, and no others."""
        checkpoint.remove(self.folder)
        for pattern in (_FRAMES, f"{_UNFINISHED}*"):
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)


def run_folder(output: Path) -> Path:
    """Return the folder for the state of an unfinished run, beside its picture."""
    return output.with_name(f"{output.name}.run")


def is_unfinished(output: Path) -> bool:
    """Return whether there is a state from which a run can continue."""
    return checkpoint.has_checkpoint(run_folder(output))


def _attempt(save: Callable[..., object], *args: Any) -> bool:
    """Save something, and return whether it worked; warn if not, as on a full disk.

    The run continues, and the next attempt to save may succeed.
    """
    try:
        save(*args)
        return True
    except (OSError, ValueError) as error:
        _log.warning("not saved: %s", " ".join(str(error).split()))
        return False
