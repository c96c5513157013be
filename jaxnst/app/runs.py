"""What a run of the command line leaves on disk while it goes on, so that nothing is lost."""

import dataclasses
import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxnst
from jaxnst.app import checkpoint
from jaxnst.app.options import Choice
from jaxnst.files import move_into_place
from jaxnst.images import load_image, save_image
from jaxnst.minimize import Progress
from jaxnst.pyramid import resize
from jaxnst.scales import TransferState

_log = logging.getLogger(__name__)

#: Frames of an animation, and the long side of each in pixels.
NUM_FRAMES = 60
FRAME_SIZE = 512


def settings_of(choice: Choice) -> dict[str, str]:
    """Return all numbers and choices of a recipe as texts, by the names of their options."""
    config, weights, geometry = choice
    settings = _fields(config) | _fields(config.objective) | _fields(geometry)
    for name in ("objective", "terms"):
        del settings[name]
    for name, term in config.objective.terms.items():
        # A term's name alone may be that of a picture.
        settings |= {f"{name}_{key}": value for key, value in _fields(term).items()}
        settings[f"{name}_term"] = type(term)
    settings |= _fields(config.optimizer) | {"optimizer": type(config.optimizer)}
    settings |= {f"{name}_weight": scale for name, scale in weights.scales.items()}
    settings["layer_weights"] = weights.layers
    return {name: _text(value) for name, value in settings.items()}


def _fields(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}


def _text(value: Any) -> str:
    """Write a setting so that it is the same in every process, functions by their names."""
    return str(getattr(value, "__qualname__", None) or repr(value))


def fingerprint_of(
    content: Any, styles: list[Any], params: Any, choice: Choice
) -> checkpoint.Fingerprint:
    """Return all that decides about a run's bits, each part by the name of its option."""
    return settings_of(choice) | {
        "version of jaxnst": jaxnst.__version__,
        "version of jax": jax.__version__,
        "content": checkpoint.digest(content),
        "style": checkpoint.digest(styles),
        "params": checkpoint.digest(params),
    }


@dataclasses.dataclass
class Recorder:
    """Saves states, the best picture, and frames, as it is given the records of a run.

    Attributes:
        output: the picture's path; states and frames of an animation lie beside, in `folder`.
        shape: (height, width) of the finished picture, which all that are written have.
        fingerprint: what the states belong to.
        alpha: the content's opacity, if it has any.
        interval: seconds between two states; 0 for none but the last.
        save_every: evaluations between two pictures that are kept; None for none.
        frame_every: evaluations between two frames of an animation; None for none.
        latest: the last record whose loss was finite.
        newest: the evaluation of the newest state that is saved.
        saved: when one was last tried to be saved.
    """

    output: Path
    shape: tuple[int, int]
    fingerprint: checkpoint.Fingerprint
    alpha: Any = None
    interval: float = 60.0
    save_every: int | None = None
    frame_every: int | None = None
    latest: Progress | None = None
    newest: int | None = None
    saved: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """Where the unfinished run lies."""
        return run_folder(self.output)

    def __call__(self, progress: Progress) -> None:
        """Save what is due, once a loss was finite."""
        if np.isfinite(progress.history["loss"]).any():
            self.latest = progress
            self.save_what_is_due(progress)

    def save_what_is_due(self, progress: Progress) -> None:
        """Save the picture, the frame and the state whose time has come."""
        if self.save_every and progress.evaluation % self.save_every == 0:
            digits = len(str(progress.num_steps))
            name = f"{self.output.stem}_{progress.evaluation:0{digits}}{self.output.suffix}"
            _attempt(self.save_picture, self.output.with_name(name), progress.x)
        if self.frame_every and progress.evaluation % self.frame_every == 0:
            _attempt(self.save_frame, progress.x, progress.evaluation)
        if self.interval and time.monotonic() - self.saved >= self.interval:
            self.save()

    def save(self) -> None:
        """Save the state and the picture so far."""
        if self.latest is None:
            return
        _attempt(self.save_picture, self.output, self.latest.x)
        # To save it again would first remove what is there, which may be the only one.
        if self.newest != self.latest.evaluation:
            _attempt(self.save_state, self.latest)
        self.saved = time.monotonic()

    def save_state(self, progress: Progress) -> None:
        """Save the state, from which `resume` goes on."""
        state = progress.state._asdict()
        checkpoint.save(self.folder / "state", progress.evaluation, state, self.fingerprint)
        self.newest = progress.evaluation

    def save_picture(self, path: Path, image: Any) -> None:
        """Save a picture, enlarged to its final shape."""
        image = resize(image, *self.shape)
        self.put(path, lambda beside: save_image(beside, image, alpha=self.alpha))

    def put(self, path: Path, write: Callable[[Path], object]) -> None:
        """Have a file written within the run's folder, then put it in its place.

        So no stray half of a file lies in the user's folder if the process is killed.
        """
        whole = self.folder / "new" / path.name
        whole.parent.mkdir(parents=True, exist_ok=True)
        write(whole)
        move_into_place(whole, path)

    def save_frame(self, image: Any, evaluation: int) -> None:
        """Save a frame, without loss, for the animation at the end."""
        ratio = min(1.0, FRAME_SIZE / max(self.shape))
        height, width = (max(1, round(side * ratio)) for side in self.shape)
        frames = self.folder / "frames"
        frames.mkdir(parents=True, exist_ok=True)
        save_image(frames / f"{evaluation:09}.png", resize(image, height, width))

    def frames(self) -> Iterator[np.ndarray[Any, Any]]:
        """All frames so far, those of a run that was cut off included."""
        for path in sorted((self.folder / "frames").glob("*.png")):
            yield np.asarray(load_image(path))

    def resume(self) -> TransferState:
        """The newest state.

        Raises:
            ValueError: there is none, or it belongs to something else.
        """
        return TransferState(**checkpoint.restore(self.folder / "state", self.fingerprint))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Make the folder; at the end it is removed, unless there is a state to go on from."""
        self.folder.mkdir(exist_ok=True)
        try:
            yield
        finally:
            if not is_unfinished(self.output):
                self.remove()

    def remove(self) -> None:
        """Remove the unfinished run, and nothing else that someone may have put there."""
        checkpoint.remove(self.folder / "state")
        for name in ("frames", "new"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        with suppress(OSError):  # not there, or not empty
            self.folder.rmdir()


def run_folder(output: Path) -> Path:
    """Where the state of an unfinished run lies, beside its picture."""
    return output.with_name(f"{output.name}.run")


def is_unfinished(output: Path) -> bool:
    """Whether there is a state to go on from."""
    return checkpoint.has_checkpoint(run_folder(output) / "state")


def _attempt(save: Callable[..., object], *args: Any) -> None:
    """A full disk or the like does not end a run: what cannot be saved may be so the next time."""
    try:
        save(*args)
    except (OSError, ValueError) as error:
        _log.warning("not saved: %s", " ".join(str(error).split()))
