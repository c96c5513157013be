"""`python -m jaxnst`, which is the command `jaxnst` too."""

import os
import sys

from jaxnst.app.cli import main

LARGE_PAGES = "glibc.malloc.hugetlb=1"


def start() -> int:
    """Run the command line, in large pages of memory where the system has them."""
    if sys.argv[1:2] and sys.argv[1] in ("transfer", "demo", "sweep", "batch"):
        _start_again_with_large_pages()
    return main()


def _start_again_with_large_pages() -> None:
    """Replace this process, unless the C library was asked for large pages already.

    XLA allocates its memory again for each evaluation, which is slow in pages of 4 KB: on two
    cores large ones save 4 to 11 % of an evaluation's time at 256 pixels and 7 to 10 % at 512, for
    2 % more memory (benchmarks/evaluation.py). The C library of Linux reads this setting only when
    a process starts. Other systems ignore it.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    closed = sys.stdout is None or sys.stderr is None  # the new process would open others as these
    if sys.platform == "linux" and "glibc.malloc.hugetlb" not in tunables and not closed:
        asked = f"{tunables}:{LARGE_PAGES}" if tunables else LARGE_PAGES
        os.execve(sys.executable, sys.orig_argv, os.environ | {"GLIBC_TUNABLES": asked})


if __name__ == "__main__":
    sys.exit(start())
