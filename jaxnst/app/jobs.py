"""Run jobs that make many pictures in a folder, and that continue after they were cut off.

The lanes of a sweep and the files of a batch are both lists of pictures to make. One driver serves
both: it locks the folder, skips finished pictures, saves each new one, and keeps the manifest.
"""

import errno
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
from jax.experimental.multihost_utils import sync_global_devices

from jaxnst.app.manifest import Entry, Manifest, describe_run
from jaxnst.app.output import complain, on_terminal, say
from jaxnst.app.progress import JobBar
from jaxnst.app.signals import interruptible, terminable
from jaxnst.devices import is_first
from jaxnst.files import locked
from jaxnst.images import save_image
from jaxnst.lanes import SweepProgress
from jaxnst.optimize import Status
from jaxnst.transfer import TransferResult

Callback = Callable[[SweepProgress], object]
IsDone = Callable[[Entry], bool]

_POLL = 0.2  #: seconds between two checks of the other processes' files


class Made(NamedTuple):
    """A picture that a job has made. Without result and error, it was there already."""

    entry: Entry  #: its `output`, a path within the folder with slashes, and its sources
    result: TransferResult | None = None
    error: str | None = None  #: the reason why it could not be made
    alpha: Any = None  #: the content's opacity, if it has any
    seconds: float = 0.0


class Job(Protocol):
    """A list of pictures to make in a folder."""

    @property
    def settings(self) -> dict[str, str]:
        """Return values, by name, that an earlier start of the same job must share."""

    @property
    def count(self) -> int:
        """Return the number of pictures of this process."""

    def make(
        self, is_done: IsDone, callback: Callback, stopped: Callable[[], bool]
    ) -> Iterator[Made]:
        """Make the pictures of this process that are not done, and yield all of them.

        The job ends early if the callback returns a true value, as in `sweep`.
        """


def run_job(job: Job, folder: Path, *, restart: bool = False, quiet: bool = False) -> int:
    """Do the share of this process in a job, report it, and return the exit status.

    Args:
        job: the job, whose input was checked.
        folder: the folder of the pictures and the manifest.
        restart: whether to replace what an earlier job has left in the folder.
        quiet: whether to show no progress.

    Raises:
        BlockingIOError: another job is running in the folder.
        OSError: the folder cannot be written to.
        ValueError: the folder holds something else.
    """
    check_folder(job, folder, restart=restart)
    folder.mkdir(exist_ok=True)
    with locked(folder) if is_first() else nullcontext():
        # Check again, since another job may have filled the folder and ended in between.
        manifest = check_folder(job, folder, restart=restart)
        if restart and is_first():
            manifest.discard()
        _wait_for_all("the folder is ready")
        manifest = check_folder(job, folder)
        manifest.open()
        _wait_for_all("all manifests are open")
        try:
            status = _work(job, manifest, quiet=quiet or not on_terminal() or not is_first())
        except BaseException:
            manifest.close()
            raise
        if status < 128:
            _merge_when_all_are_done(manifest)
        return status


def _wait_for_all(what: str) -> None:
    if jax.process_count() > 1:
        sync_global_devices(what)


def check_folder(job: Job, folder: Path, *, restart: bool = False) -> Manifest:
    """Check that a folder is new or of the same job; with `restart`, of any job.

    Raises:
        OSError, ValueError: as for `Manifest.check`.
    """
    manifest = Manifest(folder, jax.process_index(), jax.process_count())
    manifest.check(None if restart else job.settings)
    return manifest


def _work(job: Job, manifest: Manifest, *, quiet: bool) -> int:
    """Make pictures, save each while the next is computed, and return the exit status."""
    tally: Counter[str] = Counter()
    written: deque[Future[Entry | None]] = deque()

    def record(entry: Entry | None) -> None:
        tally["there" if entry is None else entry["status"]] += 1
        if entry is not None and entry["status"] == "failed":
            complain(entry["error"])
        if show is not None:
            show.advance()

    with (
        nullcontext() if quiet else JobBar(job.count) as show,
        interruptible() as interrupted,
        terminable() as terminated,
        ThreadPoolExecutor(1) as writer,
    ):

        def stopped() -> bool:
            return terminated.is_set() or interrupted.is_set()

        def report(progress: SweepProgress) -> bool:
            if show is not None:
                show(progress)
            return stopped()

        def is_done(entry: Entry) -> bool:
            return manifest.is_done(entry["output"], entry)

        for made in job.make(is_done, report, stopped):
            written.append(writer.submit(_save, manifest, made))
            while len(written) > 8 or (written and written[0].done()):
                record(written.popleft().result())
        while written:
            record(written.popleft().result())
    if stopped():
        say(f"{manifest.folder}: {_count(tally['done'])}, interrupted; the same command goes on")
        return 143 if terminated.is_set() else 130
    parts = [f"{_count(tally['done'])} made"]
    parts += [f"{tally['there']} there already"] * bool(tally["there"])
    parts += [f"{tally['failed']} could not be"] * bool(tally["failed"])
    say(f"{manifest.folder}: {', '.join(parts)}")
    return 1 if tally["failed"] else 0


def _count(pictures: int) -> str:
    return f"{pictures} picture{'' if pictures == 1 else 's'}"


def _save(manifest: Manifest, made: Made) -> Entry | None:
    """Save a picture and append its line; return the line, or None if the picture was there."""
    entry, result = made.entry, made.result
    if result is None and made.error is None:
        return None
    if result is None:
        return manifest.append(entry | {"status": "failed", "error": made.error})
    if result.status is Status.NON_FINITE and len(result.history["loss"]) <= 1:
        error = f"the loss of {entry['output']!r} is not finite at the start; use smaller weights"
        return manifest.append(entry | {"status": "failed", "error": error})
    path = manifest.folder / entry["output"]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, result.image, alpha=made.alpha)
    except (OSError, ValueError) as error:  # such as a folder in its place; other pictures continue
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        return manifest.append(entry | {"status": "failed", "error": str(error)})
    entry |= describe_run(path, result.history, result.status.name.lower(), made.seconds)
    if result.status is Status.INTERRUPTED:
        entry["status"] = "interrupted"
    return manifest.append(entry)


def _merge_when_all_are_done(manifest: Manifest) -> None:
    """Merge the manifests of all processes, which wait for each other.

    They watch the names of each other's files. A collective operation of JAX would fail on CPUs
    after some minutes, but one process may have hours of work more than another.
    """
    if is_first():
        while not all(manifest.has_finished(i) for i in range(1, jax.process_count())):
            time.sleep(_POLL)
        manifest.merge()
    else:
        manifest.finish()
        while manifest.has_finished(jax.process_index()):
            time.sleep(_POLL)
