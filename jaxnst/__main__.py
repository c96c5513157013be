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

    XLA allocates its memory again for each evaluation, which is slow in pages of 4 KB;
    benchmarks/evaluation.py measures it. The C library of Linux can use larger pages, but reads
    this setting only when a process starts. Other systems ignore it.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform == "linux" and "glibc.malloc.hugetlb" not in tunables:
        asked = f"{tunables}:{LARGE_PAGES}" if tunables else LARGE_PAGES
        sys.stdout.flush()
        os.execve(sys.executable, sys.orig_argv, os.environ | {"GLIBC_TUNABLES": asked})


if __name__ == "__main__":
    sys.exit(start())
