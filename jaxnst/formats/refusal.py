"""Refuse a file in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import NoReturn


class Refusal(Exception):
    """The reason why a file is not read, in one line without the file's name."""


def refuse(reason: str) -> NoReturn:
    """Raise `Refusal`."""
    raise Refusal(reason)


def quote(value: str | bytes | int | tuple[int, ...], most: int = 80) -> str:
    """Return a piece of a file's content as printable ASCII of `most` characters, for a message."""
    text = ascii(value[:most] if isinstance(value, str | bytes) else value)
    return text if len(text) <= most else text[: most - 4] + "..." + text[-1]


@contextmanager
def refusing(path: str | PathLike[str], kind: str | None = None) -> Iterator[None]:
    """Turn `Refusal` into a ValueError that names the file.

    Args:
        path: the file.
        kind: the kind of file of which the body is the reader, so that any other exception says
            that the file is damaged.

    >>> with refusing("a.mat", "MATLAB"):
    ...     {}["layers"]
    Traceback (most recent call last):
    ValueError: a.mat is a damaged MATLAB file (KeyError: "'layers'")
    """
    try:
        yield
    except Refusal as refusal:
        raise ValueError(f"{path} is refused{f' as {kind}' * bool(kind)}: {refusal}") from None
    except Exception as error:
        if kind is None:
            raise
        reason = f"{type(error).__name__}: {quote(' '.join(str(error).split()))}"
        raise ValueError(f"{path} is a damaged {kind} file ({reason})") from error
