"""Seconds and memory of one evaluation beside pastiche 1.6.0, by convolution and size of pages.

    pip install -e '.[bench]'
    python benchmarks/evaluation.py

An evaluation is the loss, its gradient with respect to the image and a step of L-BFGS with 100
pairs, the same on both sides. Each figure comes from its own process; they run one after another.
Seconds are those per evaluation in the second half of the run, so they exclude start-up. Memory is
the peak of the process.
"""

import argparse
import os
import tempfile
from pathlib import Path

from convergence import (
    LARGE_PAGES,
    Trace,
    in_process,
    make_pairs,
    prepare,
    run_jaxnst,
    run_pastiche,
)


def run_direct(content: Path, style: Path, steps: int) -> Trace:
    """Run jaxnst with XLA's own convolution in place of Winograd's."""
    from jaxnst import convolution

    convolution.winograd_conv3x3 = convolution.direct_conv3x3
    return run_jaxnst(content, style, steps)


SIDES = {"pastiche": run_pastiche, "jaxnst, direct": run_direct, "jaxnst": run_jaxnst}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--steps", type=int, default=8, help="evaluations of each run")
    args = parser.parse_args()
    for size in args.sizes:
        print()
        with tempfile.TemporaryDirectory() as folder:
            paths = prepare(Path(folder), make_pairs()["cat-starry"], size)
            peer = None
            print(f"{'':>18}{'pages':>8}{'s':>10}{'ratio':>8}{'MB':>8}")
            for pages, tunables in (("small", ""), ("large", LARGE_PAGES)):
                os.environ["GLIBC_TUNABLES"] = tunables
                for name, run in SIDES.items():
                    trace = in_process(run, *paths, args.steps)
                    peer = trace.rate if peer is None else peer
                    print(
                        f"{name:>18}{pages:>8}{trace.rate:>10.3f}{trace.rate / peer:>8.2f}"
                        f"{trace.peak_memory / 1e6:>8.0f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
