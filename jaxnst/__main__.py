"""The entry point of `python -m jaxnst` and of the command `jaxnst`.

It imports JAX, which takes seconds, only once nothing but the command line is left to do.
"""

import os
import signal
import sys
from types import FrameType

TYPE_CHECKING = False  # `typing` takes a while to import
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

LARGE_PAGES = "glibc.malloc.hugetlb=1"


def start() -> int:
    """Run the command line, with large memory pages where the system has them."""
    previous = _end_at_signals()
    if sys.argv[1:2] and sys.argv[1] in ("transfer", "texture", "mix", "demo", "sweep", "batch"):
        _start_again_with_large_pages(previous)
    from jaxnst.app.cli import main

    for number, handler in previous.items():
        signal.signal(number, handler)
    try:
        return main()
    except KeyboardInterrupt:  # before there is anything to say about it
        return 130


def _end_at_signals() -> "dict[int, Any]":
    """Let Ctrl-C and SIGTERM end the process at once; return the handlers that did before.

    Nothing is begun yet that would have to be ended. An exception could come at any place of an
    import, and Python would show where.
    """

    def end(number: int, _: FrameType | None) -> None:
        os._exit(128 + number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    found: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    previous = {n: handler for n, handler in found.items() if handler is not signal.SIG_IGN}
    for number in previous:
        signal.signal(number, end)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, previous)
    return previous


def _start_again_with_large_pages(signals: "Iterable[int]") -> None:
    """Restart this process with large memory pages, unless its environment already sets them.

    XLA allocates its memory again for each evaluation, which is slow in pages of 4 KB: on two
    cores large pages save 4 to 11 % of an evaluation's time at 256 pixels and 7 to 10 % at 512, for
    2 % more memory (benchmarks/evaluation.py). The GNU C library reads this setting only when a
    process starts.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    closed = sys.stdout is None or sys.stderr is None  # the new process would open others as these
    if sys.platform == "linux" and "glibc.malloc.hugetlb" not in tunables and not closed:
        asked = f"{tunables}:{LARGE_PAGES}" if tunables else LARGE_PAGES
        # They wait until the new process has its handlers, or Python would show where it was.
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        os.execve(sys.executable, sys.orig_argv, os.environ | {"GLIBC_TUNABLES": asked})


if __name__ == "__main__":
    sys.exit(start())
