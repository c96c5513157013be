"""Record the finished pictures of a job, in a file of JSON lines in the job's folder.

A line describes one picture: its sources, its settings, and the checksum of its file. A job that is
started again leaves these pictures alone. Of several lines for one picture, the last one counts.
"""

import json
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from jaxnst.app.runs import versions
from jaxnst.files import replacing

Entry = dict[str, Any]

_NAME, _PARTS = "manifest.jsonl", "manifest*.jsonl"
_START = b'{"output": "'  #: the first bytes of each line


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    return sha256(path.read_bytes()).hexdigest()


def describe_run(path: Path, history: Mapping[str, Any], status: str, seconds: float) -> Entry:
    """Return the part of a line that describes a run and the picture that it saved.

    Args:
        path: the path of the picture.
        history: as in `TransferResult`. The line has the losses of the best evaluation at the full
            size.
        status: the status of the run, in words.
        seconds: the time that it took.
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
    """The manifest of a folder. Several processes may each write lines of their own.

    Attributes:
        folder: the folder of the job.
        process: the number of this process.
        path: the file to which this process appends its lines.
        entries: the lines that all processes had written at the start, and those of this process
            since, by `output`.

    Raises:
        ValueError: the folder has a file of that name that jaxnst did not write.
    """

    def __init__(self, folder: Path, process: int = 0, num_processes: int = 1) -> None:
        self.folder, self.process = folder, process
        # A file for each process: not all file systems append whole lines.
        self.path = folder / (_NAME if num_processes == 1 else f"manifest-{process:04}.jsonl")
        self._lock = threading.Lock()
        self.entries: dict[str, Entry] = {}
        for path in _parts(folder):
            for entry in _read(path):
                known = self.entries.get(entry["output"])
                if known is None or known["finished"] <= entry["finished"]:
                    self.entries[entry["output"]] = entry

    def check(self, settings: Mapping[str, str] | None) -> None:
        """Check that the folder is new, or holds only what the same job has left.

        Args:
            settings: values, by name, in which both jobs must agree; None for any job of jaxnst.

        Raises:
            ValueError: the folder holds something else, which pictures might overwrite.
            FileNotFoundError: the parent folder does not exist.
            FileExistsError: the folder is a file.
        """
        quoted = repr(str(self.folder))
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"{quoted} is a file: give the name of a folder")
        if not self.folder.absolute().parent.is_dir():
            raise FileNotFoundError(
                f"there is no folder {str(self.folder.parent)!r}: make it first"
            )
        if not self.folder.exists():
            return
        # Listed once, since other processes may be writing to the folder too.
        there = [path.name for path in self.folder.iterdir()]
        if there and not any(fnmatch(name, _PARTS) for name in there):
            raise ValueError(f"{quoted} is not empty: give a new folder, or that of the same job")
        for entry in self.entries.values():
            other = entry["settings"] if settings is not None else {}
            mine = settings or {}
            differ = [name for name in {**mine, **other} if mine.get(name) != other.get(name)]
            if differ:
                raise ValueError(
                    f"{quoted} holds a job with other {' and '.join(sorted(differ))}: give another "
                    "folder, or --restart to replace it"
                )

    def open(self) -> None:
        """Make the folder and the file of this process, if they do not exist."""
        self.folder.mkdir(exist_ok=True)
        with suppress(
            FileNotFoundError
        ):  # unless an earlier start was cut off while processes waited
            self._finished(self.process).rename(self.path)
        self.path.touch()

    def close(self) -> None:
        """Remove the file of this process and the folder, if both are empty."""
        if not self.entries:
            self.path.unlink(missing_ok=True)
            with suppress(OSError):  # not empty
                self.folder.rmdir()

    def finish(self) -> None:
        """Rename the file, which shows other processes that this one has done its share."""
        self.path.rename(self._finished(self.process))

    def has_finished(self, process: int) -> bool:
        """Return whether a process has called `finish`, and nobody has called `merge` since."""
        return self._finished(process).exists()

    def _finished(self, process: int) -> Path:
        return self.folder / f"manifest-{process:04}-finished.jsonl"

    def discard(self) -> None:
        """Remove the pictures that the manifest lists, and empty the manifest.

        Pictures that were changed since, and files outside the folder, stay.
        """
        inside = self.folder.resolve()
        for output, entry in self.entries.items():
            path = self.folder / output
            if path.resolve().is_relative_to(inside) and _has_digest(path, entry):
                path.unlink()
        if parts := _parts(self.folder):
            (self.folder / _NAME).write_bytes(b"")  # which still marks the folder as that of a job
            for path in parts:
                if path.name != _NAME:
                    path.unlink()
        self.entries.clear()

    def is_done(self, output: str, made_of: Mapping[str, Any]) -> bool:
        """Return whether a picture was made from the same things, and was not changed since."""
        entry = self.entries.get(output)
        return (
            entry is not None
            and entry["status"] == "done"
            and all(entry.get(name) == value for name, value in made_of.items())
            and _has_digest(self.folder / output, entry)
        )

    def append(self, entry: Entry) -> Entry:
        """Append a line about a picture, with versions and time, and wait until it is on disk."""
        finished = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"output": entry["output"]} | entry  # in this order, see `_START`
        entry |= {"made_by": versions(), "finished": finished}
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
        """Merge the files of all processes into a sorted one, after all have called `finish`."""
        merged = Manifest(self.folder)
        lines = [json.dumps(merged.entries[output]) for output in sorted(merged.entries)]
        with replacing(self.folder / _NAME) as beside:
            beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        for path in _parts(self.folder):
            if path.name != _NAME:
                path.unlink()


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(_PARTS))


def _has_digest(path: Path, entry: Entry) -> bool:
    return path.is_file() and file_digest(path) == entry.get("sha256")


def _read(path: Path) -> list[Entry]:
    """Return the entries of a file that jaxnst wrote; later lines replace earlier ones.

    An incomplete line, which a process that was killed may leave, is skipped.

    Raises:
        ValueError: jaxnst did not write the file.
    """
    entries: dict[str, Entry] = {}
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # process 0 has discarded or merged it in the meantime
        return []
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            if line[: len(_START)] == _START[: len(line)]:
                continue
            entry = None
        if not _is_ours(entry):
            raise ValueError(
                f"{str(path)!r} was not written by jaxnst: give another folder, or move it away"
            )
        entries[entry["output"]] = entry
    return list(entries.values())


def _is_ours(entry: Any) -> bool:
    kinds = {"output": str, "status": str, "finished": str, "settings": dict, "made_by": dict}
    return isinstance(entry, dict) and all(
        isinstance(entry.get(name), kind) for name, kind in kinds.items()
    )
