"""What a run of the command line leaves on disk while it goes on, so that nothing is lost."""

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxnst
from jaxnst import checkpoint
from jaxnst.images import load_image, save_image
from jaxnst.objective import LossWeights
from jaxnst.optimize import Progress
from jaxnst.pyramid import resize
from jaxnst.transfer import TransferConfig, TransferState

_log = logging.getLogger(__name__)

#: Frames of an animation, and the long side of each in pixels.
NUM_FRAMES = 60
FRAME_SIZE = 512


def fingerprint_of(
    content: Any, styles: list[Any], params: Any, weights: LossWeights, config: TransferConfig
) -> checkpoint.Fingerprint:
    """All that decides about a run's bits, each part by the name that a user gave it by."""
    settings = dataclasses.asdict(config)
    settings |= settings.pop("objective")
    settings |= {f"{name}_weight": value for name, value in weights._asdict().items()}
    return {k: repr(v) for k, v in settings.items()} | {
        "version of jaxnst": jaxnst.__version__,
        "version of jax": jax.__version__,
        "content": checkpoint.digest(content),
        "style": checkpoint.digest(styles),
        "params": checkpoint.digest(params),
    }


@dataclasses.dataclass
class Recorder:
    """A callback of `style_transfer` that saves states, the best picture, and frames.

    Attributes:
        output: the picture's path; states and frames of an animation lie beside, in `folder`.
        shape: (height, width) of the finished picture, which all that are written have.
        fingerprint: what the states belong to.
        alpha: the content's opacity, if it has any.
        interval: seconds between two states; 0 for none but the last.
        save_every: evaluations between two pictures that are kept; None for none.
        frame_every: evaluations between two frames of an animation; None for none.
        show: another callback.
    """

    output: Path
    shape: tuple[int, int]
    fingerprint: checkpoint.Fingerprint
    alpha: Any = None
    interval: float = 60.0
    save_every: int | None = None
    frame_every: int | None = None
    show: Callable[[Progress], object] | None = None
    latest: Progress | None = None
    saved: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def folder(self) -> Path:
        """Where the unfinished run lies."""
        return run_folder(self.output)

    def __call__(self, progress: Progress) -> object:
        """Save what is due."""
        self.latest = progress
        if self.save_every and progress.evaluation % self.save_every == 0:
            digits = len(str(progress.num_steps))
            name = f"{self.output.stem}_{progress.evaluation:0{digits}}{self.output.suffix}"
            self.save_picture(self.output.with_name(name))
        if self.frame_every and progress.evaluation % self.frame_every == 0:
            self.save_frame(progress.x, progress.evaluation)
        if self.interval and time.monotonic() - self.saved >= self.interval:
            self.try_to_save()
        return self.show(progress) if self.show is not None else None

    def try_to_save(self) -> None:
        """`save`, but a full disk or the like does not end the run, only this attempt."""
        try:
            self.save()
        except (OSError, ValueError) as error:
            self.saved = time.monotonic()
            _log.warning("the state could not be saved, the run goes on: %s", error)

    def save(self) -> None:
        """Save the state and the picture so far."""
        if self.latest is None:
            return
        self.folder.mkdir(exist_ok=True)
        state = self.latest.state._asdict()
        checkpoint.save(self.folder / "state", self.latest.evaluation, state, self.fingerprint)
        self.save_picture(self.output)
        self.saved = time.monotonic()

    def save_picture(self, path: Path) -> None:
        """Save the picture so far, enlarged to its final shape."""
        assert self.latest is not None
        save_image(path, resize(self.latest.x, *self.shape), alpha=self.alpha)

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

    def remove(self) -> None:
        """Remove the unfinished run."""
        checkpoint.remove(self.folder)


def run_folder(output: Path) -> Path:
    """Where the state of an unfinished run lies, beside its picture."""
    return output.with_name(f"{output.name}.run")


def is_unfinished(output: Path) -> bool:
    """Whether there is a state to go on from."""
    return checkpoint.has_checkpoint(run_folder(output) / "state")
