"""Profile an evaluation by operation of its compiled program, as XLA runs them one after the other.

    pip install -e .
    python benchmarks/operations.py --size 512

`layers.py` times each layer alone. Here the times are those inside the program: with what XLA fuses
into an operation, with its copies, and with features in the cache or not. Under "from", a name in
parentheses belongs to the gradient. Each time is the median over the evaluations.
"""

import argparse
import glob
import re
import statistics
import tempfile
from collections import defaultdict
from typing import Any

import jax
from jax.profiler import ProfileData

import jaxnst
from jaxnst.compilation import compiled


def compile_evaluation(preset: str, size: int) -> tuple[Any, tuple[Any, ...]]:
    """Return the loss and its gradient as one compiled program, and its arguments."""
    config, weights = jaxnst.preset(preset)
    objective, demo = config.objective, f"{jaxnst.__path__[0]}/demo"
    content, style = (jaxnst.load_image(f"{demo}/{n}.jpg", size=size) for n in ("content", "style"))
    pictures = {"content": content, "style": style}
    params = jaxnst.load_params()
    targets = jaxnst.compute_targets(pictures, params, objective=objective)

    def evaluate(image: jax.Array, params: Any, targets: Any, weights: Any) -> Any:
        return jaxnst.loss_and_grad(image, params, targets, weights, objective=objective)

    arguments = content, params, targets, weights
    return compiled(evaluate).lower(*arguments).compile(), arguments


def measure(program: Any, arguments: tuple[Any, ...], rounds: int) -> dict[str, float]:
    """Return the milliseconds of each operation by its name in the program."""
    jax.block_until_ready(program(*arguments))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(rounds):
                jax.block_until_ready(program(*arguments))
        (path,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        profile = ProfileData.from_file(path)
    taken = defaultdict(list)
    for plane in profile.planes:
        for line in plane.lines:
            for event in line.events:
                if name := dict(event.stats).get("hlo_op"):
                    taken[name].append(event.duration_ns / 1e6)
    return {name: statistics.median(times) for name, times in taken.items()}


def describe(text: str) -> dict[str, tuple[str, str]]:
    """Return the result's shape of each operation, and the path in the network it comes from."""
    line = re.compile(r'^\s+(?:ROOT )?%(\S+) = (\w+\[[\d,]*\]).*op_name="([^"]*)"', re.M)
    found = {}
    for name, shape, path in line.findall(text):
        path = re.sub(r"jit\(([^()]*)\)", r"\1", path).removeprefix("evaluate/")
        path = re.sub(r"transpose\((?:\w+\()*(\w*)\)+", r"(\1)", path)
        found[name] = shape, re.sub(r"jvp\((\w*)\)", r"\1", path).replace("VGG19", "").strip("/")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="pastiche")
    parser.add_argument("--size", type=int, default=512, help="pixels of the long side")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--top", type=int, default=40, help="number of operations to print")
    args = parser.parse_args()
    program, arguments = compile_evaluation(args.preset, args.size)
    taken = measure(program, arguments, args.rounds)
    described = describe(program.as_text())
    total = sum(taken.values())
    print(f"{len(taken)} operations, {total:.0f} ms\n")
    print("| ms | share | operation | result | from |\n|---|---|---|---|---|")
    for name in sorted(taken, key=lambda name: -taken[name])[: args.top]:
        shape, path = described.get(name, ("", ""))
        share = 100 * taken[name] / total
        print(f"| {taken[name]:.1f} | {share:.1f} % | {name} | {shape} | {path} |")


if __name__ == "__main__":
    main()
