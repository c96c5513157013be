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

    XLA asks for its memory anew at each evaluation, which in pages of 4 KB takes its time;
    benchmarks/evaluation.py tells how much. The C library on Linux can use larger ones, but reads
    whether it is to only when a process starts. Others ignore it.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and "glibc.malloc.hugetlb" not in tunables:
        asked = f"{tunables}:{LARGE_PAGES}" if tunables else LARGE_PAGES
        sys.stdout.flush()
        os.execve(sys.executable, sys.orig_argv, os.environ | {"GLIBC_TUNABLES": asked})


if __name__ == "__main__":
    sys.exit(start())
