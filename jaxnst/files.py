"""Replace files as a whole or not at all."""

import errno
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path to write to, and move it to `path` if the body succeeds.

    The new file has the permissions that `open` would give it, or those of the file it replaces.
    If the body raises, the temporary file is removed and the old file stays as it was. Symbolic
    links are followed and stay links.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with replacing(f"{folder}/a.txt") as temporary:
    ...         _ = temporary.write_text("whole")
    ...     os.listdir(folder)
    ['a.txt']
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        yield temporary
        _take_place(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
        PermissionError: the folder is not writable.
        ValueError: the suffix is not one of `suffixes`, or `path` is a folder.
    """
    target, quoted = Path(path), repr(os.fspath(path))  # repr escapes line breaks
    if target.is_dir():
        raise ValueError(f"{quoted} is a folder: give the name of a file in it")
    if target.suffix.lower() not in suffixes:
        raise ValueError(
            f"{quoted} has the unknown suffix {target.suffix!r}: use one of {' '.join(suffixes)}"
        )
    folder = Path(os.path.realpath(target)).parent
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}: make it first")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"folder {str(folder)!r} cannot be written to: choose another one")
