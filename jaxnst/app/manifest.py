"""What a job of many pictures has done so far: a file of JSON lines in its folder.

Each line stands for one picture, the last one of several for the same: what it was made of and how,
and the checksum of the file, by which a job that is started again knows what need not be done.
"""

import json
import os
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxnst.files import replacing

Entry = dict[str, Any]

_NAME, _PARTS = "manifest.jsonl", "manifest*.jsonl"


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    return sha256(path.read_bytes()).hexdigest()


def describe_run(path: Path, history: Mapping[str, Any], status: str, seconds: float) -> Entry:
    """Return what a line says about a picture that was saved after a run.

    Args:
        path: of the picture.
        history: by evaluation, as in `TransferResult`. The losses are those of the best
            evaluation at the full size.
        status: of the run, in words.
        seconds: that it took.
    """
    losses = np.where(history["size"] == history["size"][-1], history["loss"], np.inf)
    best = int(np.nanargmin(losses))
    names = [name for name in history if name not in ("evaluation", "seconds", "size")]
    terms = {name: float(history[name][best]) for name in names}
    return {
        "status": "done",
        "run": status,
        "evaluations": len(losses),
        "losses": terms,
        "seconds": round(seconds, 3),
        "sha256": file_digest(path),
    }


class Manifest:
    """The manifest of a folder; several processes may each write lines of their own.

    Attributes:
        folder: of the job; made if it is not there.
        path: where this process appends its lines.
        entries: all lines of all processes at the start, and this one's since, by `output`.
    """

    def __init__(self, folder: Path, process: int = 0, num_processes: int = 1) -> None:
        self.folder = folder
        # A file for each process: not all file systems append whole lines.
        self.path = folder / (_NAME if num_processes == 1 else f"manifest-{process:04}.jsonl")
        self._lock = threading.Lock()
        self.entries: dict[str, Entry] = {}
        for path in _parts(folder):
            for entry in _read(path):
                known = self.entries.get(entry["output"])
                if known is None or known["finished"] <= entry["finished"]:
                    self.entries[entry["output"]] = entry

    def open(self, settings: Mapping[str, str]) -> None:
        """Make the folder, or check that it holds nothing but an earlier start of the same job.

        Args:
            settings: what the job is to be the same in, by name.

        Raises:
            ValueError: it holds something else, which pictures might overwrite.
            FileNotFoundError: the folder that is to hold it does not exist.
            FileExistsError: it is a file.
        """
        quoted = repr(str(self.folder))
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"{quoted} is a file: give the name of a folder")
        if not self.folder.absolute().parent.is_dir():
            raise FileNotFoundError(
                f"there is no folder {str(self.folder.parent)!r}: make it first"
            )
        self.folder.mkdir(exist_ok=True)
        # One look, since other processes may be opening it too.
        there = [path.name for path in self.folder.iterdir()]
        if there and not any(fnmatch(name, _PARTS) for name in there):
            raise ValueError(f"{quoted} is not empty: give a new folder, or that of the same job")
        for entry in self.entries.values():
            other = entry.get("settings", {})
            differ = [k for k in {**settings, **other} if settings.get(k) != other.get(k)]
            if differ:
                raise ValueError(
                    f"{quoted} holds a job with other {' and '.join(sorted(differ))}: give another "
                    "folder, or --restart to replace it"
                )
        self.path.touch()

    def discard(self) -> None:
        """Remove the pictures that the manifest lists, and leave an empty manifest."""
        for output in self.entries:
            (self.folder / output).unlink(missing_ok=True)
        if parts := _parts(self.folder):
            (self.folder / _NAME).write_bytes(b"")  # by which the folder stays that of a job
        for path in parts:
            if path.name != _NAME:
                path.unlink()

    def is_done(self, output: str, made_of: Mapping[str, Any]) -> bool:
        """Whether a picture was made, of just this, and is still there as it was."""
        entry, path = self.entries.get(output), self.folder / output
        return (
            entry is not None
            and entry["status"] == "done"
            and all(entry.get(name) == value for name, value in made_of.items())
            and path.is_file()
            and file_digest(path) == entry["sha256"]
        )

    def append(self, entry: Entry) -> Entry:
        """Add a line about a picture, with the time; it is on the disk when this returns."""
        entry = entry | {"finished": datetime.now(UTC).isoformat(timespec="milliseconds")}
        with self._lock, self.path.open("ab+") as file:
            # A process that was killed may have left half a line.
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            start = b"" if file.read() in (b"", b"\n") else b"\n"
            file.write(start + json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.entries[entry["output"]] = entry
        return entry

    def merge(self) -> None:
        """Make one file of those of all processes, one line for each picture, sorted.

        To be called when all of them are done.
        """
        merged = Manifest(self.folder)
        lines = [json.dumps(merged.entries[output]) for output in sorted(merged.entries)]
        with replacing(self.folder / _NAME) as beside:
            beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        for path in _parts(self.folder):
            if path.name != _NAME:
                path.unlink()


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(_PARTS))


def _read(path: Path) -> list[Entry]:
    """The entries of a file, later ones in place of earlier ones; half of a line is no entry."""
    entries: dict[str, Entry] = {}
    for line in path.read_bytes().splitlines():
        try:
            entry = json.loads(line)
            entries[entry["output"]] = entry | {"finished": str(entry["finished"])}
        except (ValueError, TypeError, KeyError):
            continue
    return list(entries.values())


_TIMEOUT = 7 * 24 * 3600 * 1000  #: milliseconds that processes wait for each other


def wait_for_all(what: str) -> None:
    """Wait until all processes have come to this point, for which they use the same name."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost  # takes seconds

        # Not `sync_global_devices`, a collective, which is given up after some minutes on CPUs.
        multihost.get_barrier_sync_fn()(key=what, timeout_ms=_TIMEOUT)
