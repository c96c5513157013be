"""Replace files as a whole or not at all."""

import errno
import hashlib
import os
import re
import secrets
import shutil
import socket
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to, and move it to `path` if the body succeeds.

    The new file has the permissions that `open` would give it, or those of the file it replaces.
    If the body raises, the temporary file is removed and the old file stays as it was. What a
    process that was killed has left is removed by the next that writes to the same path on the
    same machine. Symbolic links are followed and stay links.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     os.listdir(folder)
    ['a.txt']
    """
    target = Path(os.path.realpath(path))
    prefix = _prefix(target)
    _remove_left_behind(target.parent, prefix)
    temporary = target.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _take_place(temporary, target)
    except OSError as error:  # which names the temporary file, or none
        raise type(error)(error.errno, error.strerror or str(error), os.fspath(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


def _prefix(target: Path) -> str:
    """Return how the names of all temporary files begin that this machine makes for `target`."""
    name = target.name
    if len(os.fsencode(name)) > 150:  # file systems allow 255
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return f".{name}.unfinished-{zlib.crc32(socket.gethostname().encode()):08x}-"


def _remove_left_behind(folder: Path, prefix: str) -> None:
    """Remove the temporary files of processes that no longer run, as far as that is possible."""
    with suppress(OSError):
        for name in os.listdir(folder):
            owner = re.fullmatch(re.escape(prefix) + r"(\d+)-[0-9a-f]+[.]tmp", name)
            if owner and not psutil.pid_exists(int(owner[1])):
                (folder / name).unlink(missing_ok=True)


def move_into_place(whole: Path, path: str | os.PathLike[str]) -> None:
    """Move a finished file to `path`, with the permissions that `replacing` would give it.

    On one disk, nothing else is ever left beside `path`, not even by SIGKILL.
    """
    try:
        _take_place(whole, Path(os.path.realpath(path)))
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with replacing(path) as beside:
            shutil.move(whole, beside)


def _take_place(temporary: Path, target: Path) -> None:
    if target.exists():
        shutil.copymode(target, temporary)
    os.replace(temporary, target)


def check_target(path: str | os.PathLike[str], suffixes: Collection[str]) -> None:
    """Check that a file can be written, for example before a long computation.

    Args:
        path: the file to write.
        suffixes: the allowed suffixes, in lower case, with their dots.

    Raises:
        FileNotFoundError: the folder does not exist.
        PermissionError: the folder is not writable, or the file is write-protected.
        ValueError: the suffix is not one of `suffixes`, or `path` is a folder or a device.
        OSError: `path` is a link that leads back to itself.
    """
    target, quoted = Path(path), repr(os.fspath(path))  # repr escapes line breaks
    if target.is_dir():
        raise ValueError(f"{quoted} is a folder: give the name of a file in it")
    if os.path.islink(os.path.realpath(target)):
        raise OSError(f"{quoted} is a link that leads back to itself: give another name")
    if target.exists() and not target.is_file():
        raise ValueError(f"{quoted} is no regular file, but a pipe or a device: give another name")
    # The mode, since root may write anywhere, and replacing a file asks for no permission of it.
    if target.exists() and not target.stat().st_mode & 0o222:
        raise PermissionError(f"{quoted} is write-protected: give another name")
    if target.suffix.lower() not in suffixes:
        raise ValueError(
            f"{quoted} has the unknown suffix {target.suffix!r}: use one of {' '.join(suffixes)}"
        )
    folder = Path(os.path.realpath(target)).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}: make it first")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"folder {str(folder)!r} cannot be written to: choose another one")


def check_not_read(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Check that no output would overwrite an input or another output, however they are spelled.

    Links, relative parts and, where the file system ignores it, case make no difference.

    Raises:
        ValueError: one would.
    """
    read, written = {_identity(path) for path in inputs}, set()
    for path in outputs:
        identity, quoted = _identity(path), repr(str(path))
        if identity in read:
            raise ValueError(f"{quoted} would overwrite what is read: give another output")
        if identity in written:
            raise ValueError(f"{quoted} would be written twice: give each output a name of its own")
        written.add(identity)


def _identity(path: Path) -> object:
    try:
        found = path.stat()
        return found.st_dev, found.st_ino
    except OSError:  # a new file
        return os.path.realpath(path)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from working in a folder; a process that is killed frees it.

    Without a lock where the system or the file system has none for folders.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another jaxnst is at work in {str(folder)!r}: wait for its end, or give another "
                "output"
            ) from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)
