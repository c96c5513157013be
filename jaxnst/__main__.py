"""The entry point of `python -m jaxnst` and of the command `jaxnst`."""

import os
import sys

from jaxnst.app.cli import main

LARGE_PAGES = "glibc.malloc.hugetlb=1"


def start() -> int:
    """Run the command line, with large memory pages where the system has them."""
    if sys.argv[1:2] and sys.argv[1] in ("transfer", "texture", "demo", "sweep", "batch"):
        _start_again_with_large_pages()
    return main()


def _start_again_with_large_pages() -> None:
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
        os.execve(sys.executable, sys.orig_argv, os.environ | {"GLIBC_TUNABLES": asked})


if __name__ == "__main__":
    sys.exit(start())
