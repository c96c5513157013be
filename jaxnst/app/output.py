"""Lines on standard output and standard error. What can be printed never decides what is made."""

import os
import sys
from contextlib import suppress
from typing import TextIO


def say(text: str) -> None:
    """Print to standard output."""
    _print(text, sys.stdout)


def complain(text: str) -> None:
    """Print one line to standard error, in the name of the command."""
    _print(f"jaxnst: {one_line(text)}", sys.stderr)


def one_line(text: str, most: int = 800) -> str:
    """Return a text on one line, its middle left out if it is longer than anyone would read."""
    text = " ".join(text.split())
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def on_terminal() -> bool:
    """Return whether someone may be watching standard error."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def _print(text: str, file: TextIO | None) -> None:
    """Print as much as the file takes: it may be closed, full, or of a narrow encoding."""
    try:
        if file is not None:
            encoding = file.encoding or "utf-8"
            # A file name may hold bytes that are no text.
            written = text.encode(encoding, "backslashreplace").decode(encoding)
            print(written, file=file, flush=True)
    except OSError:
        # What was refused is still in the buffer: without this, Python tries again when it ends,
        # fails, and changes the exit status.
        with suppress(OSError), open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), file.fileno())  # type: ignore[union-attr]
    except ValueError:
        pass  # closed
