"""What one evaluation costs on TPUs, by compiling for them without having one.

    pip install 'jax[tpu]'
    python benchmarks/accelerators.py

It compiles the loss and gradient of presets for TPU v5e ahead of time, on one chip or with the
rows of the picture spread over four, and prints what the compiler reports of each chip: temporary
memory, operations, bytes moved, and collectives by kind. The time is the longer one of operations
at 197 TFLOP/s and bytes at 819 GB/s, a bound that no run can be faster than.
"""

import argparse
import os
import re
from collections import Counter
from dataclasses import replace
from importlib.metadata import version
from itertools import product
from typing import Any

# Neither look for a TPU here nor compute on one.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from jax.experimental import topologies

import jaxnst
from jaxnst.rows import placements, rows_on, rows_over

FLOPS, BYTES = 197e12, 819e9  #: of a v5e each second, in bfloat16
KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
COLLECTIVES = re.compile(rf" ({KINDS})(?:-start)?\(")


def compiled(preset: str, size: int, dtype: str, devices: list[Any]) -> Any:
    """Return the compiled loss and gradient of square pictures of a size."""
    config, weights = jaxnst.preset(preset)
    objective = replace(config.objective, dtype=dtype)
    rows = rows_over(devices, replace(config, objective=objective), size)
    image = jax.ShapeDtypeStruct((size, size, 3), np.float32)
    params = jaxnst.load_params()

    def targets(image: Any, params: Any) -> Any:
        sources = dict.fromkeys(objective.sources, image)
        return jaxnst.compute_targets(sources, params, objective=objective)

    def described(tree: Any, where: Any) -> Any:
        return jax.tree.map(
            lambda x, there: jax.ShapeDtypeStruct(np.shape(x), np.float32, sharding=there),
            tree,
            where,
        )

    args = image, params, jax.eval_shape(targets, image, params), weights
    args = tuple(described(tree, placements(tree, rows)) for tree in args)
    lifted: Any = rows_on(rows)(jaxnst.loss_and_grad, None, objective=objective)
    return lifted.lower(*args).compile()


def measure(program: Any) -> list[str]:
    """Return what the compiler reports of a program: memory, operations, bytes, collectives."""
    cost, memory = program.cost_analysis(), program.memory_analysis().temp_size_in_bytes
    flops, moved = cost["flops"], cost["bytes accessed"]
    kinds = sorted(Counter(COLLECTIVES.findall(program.as_text())).items())
    return [
        f"{memory / 1e9:.2f}",
        f"{flops / 1e9:,.0f}",
        f"{moved / 1e9:.1f}",
        f"{1e3 * max(flops / FLOPS, moved / BYTES):.1f}",
        ", ".join(f"{count} {kind}" for kind, count in kinds) or "none",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["pastiche", "default"])
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--chips", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--topology", default="v5e:2x2")
    args = parser.parse_args()
    chips = topologies.get_topology_desc(args.topology, "tpu").devices
    print(f"jax {jax.__version__}, jaxlib {version('jaxlib')}, {args.topology}")
    print(
        "| preset | size | dtype | chips | temporaries, GB | GFLOP | GB moved | ms | collectives |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for case in product(args.presets, args.sizes, args.dtypes, args.chips):
        preset, size, dtype, count = case
        row = [*case, *measure(compiled(preset, size, dtype, chips[:count]))]
        print("|", " | ".join(map(str, row)), "|", flush=True)


if __name__ == "__main__":
    main()
