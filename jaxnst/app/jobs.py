"""Jobs of many pictures in a folder: a job that is cut off goes on where it was.

A sweep's lanes and a batch's files are both a list of pictures to make. This is the one driver of
both: it locks the folder, leaves alone what is done, saves each picture, and keeps the manifest.
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

_POLL = 0.2  #: seconds between two looks at the other processes' files


class Made(NamedTuple):
    """A picture that a job has made; without result and error, one that was there already."""

    entry: Entry  #: its `output`, a path within the folder with slashes, and what it is made of
    result: TransferResult | None = None
    error: str | None = None  #: why it could not be made
    alpha: Any = None  #: the content's opacity, if it has any
    seconds: float = 0.0


class Job(Protocol):
    """What a folder is filled with."""

    @property
    def settings(self) -> dict[str, str]:
        """Return what an earlier start of the same job must have in common, by name."""

    @property
    def count(self) -> int:
        """Return the number of this process's pictures."""

    def make(
        self, is_done: IsDone, callback: Callback, stopped: Callable[[], bool]
    ) -> Iterator[Made]:
        """Make this process's pictures, but for those that are done, until the job is stopped.

        A true answer of the callback stops it, as in `sweep`.
        """


def run_job(job: Job, folder: Path, *, restart: bool = False, quiet: bool = False) -> int:
    """Do this process's share of a job and report it; return the exit status.

    Args:
        job: what to do, its input checked.
        folder: of the pictures and the manifest.
        restart: replace what an earlier job has left in the folder.
        quiet: show no progress.

    Raises:
        BlockingIOError: another job is at work in the folder.
        OSError: the folder cannot be written to.
        ValueError: it holds something else.
    """
    check_folder(job, folder, restart=restart)
    folder.mkdir(exist_ok=True)
    with locked(folder) if is_first() else nullcontext():
        # Again, since a job that has just ended may have filled it.
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
    """Check that a folder is new or of the same job, or of any job if that is to be replaced.

    Raises:
        OSError, ValueError: as for `Manifest.check`.
    """
    manifest = Manifest(folder, jax.process_index(), jax.process_count())
    manifest.check(None if restart else job.settings)
    return manifest


def _work(job: Job, manifest: Manifest, *, quiet: bool) -> int:
    """Make pictures and save them, one while the next is computed; return the exit status."""
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
    """Save a picture, then its line in the manifest, which is returned; None if it was there."""
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
    except (OSError, ValueError) as error:  # a folder in its place, for one; the others go on
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            raise
        return manifest.append(entry | {"status": "failed", "error": str(error)})
    entry |= describe_run(path, result.history, result.status.name.lower(), made.seconds)
    if result.status is Status.INTERRUPTED:
        entry["status"] = "interrupted"
    return manifest.append(entry)


def _merge_when_all_are_done(manifest: Manifest) -> None:
    """Make one manifest of those of all processes, which wait for each other.

    They see it by the names of their files: a collective is given up after some minutes on CPUs,
    and one process may have hours of work more than another.
    """
    if is_first():
        while not all(manifest.has_finished(i) for i in range(1, jax.process_count())):
            time.sleep(_POLL)
        manifest.merge()
    else:
        manifest.finish()
        while manifest.has_finished(jax.process_index()):
            time.sleep(_POLL)
