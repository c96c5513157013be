"""Profile an evaluation by layer: each operation alone, forward and back, beside PyTorch's.

    pip install -e '.[bench]'
    python benchmarks/layers.py --size 512

An operation is a convolution with its bias and ReLU, a pool, or a Gram matrix; the gradient is the
one by its input, as an image needs it. The sides take turns, and the table has medians. The sum is
not the time of an evaluation: there XLA fuses neighbours, and features stay in the cache, or not.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import jaxnst
from jaxnst.convolution import conv3x3
from jaxnst.pooling import max_pool
from jaxnst.vgg import CONV_SHAPES, LAYERS

LAST = "relu5_1"


def forward_and_back(function: Callable[..., jax.Array]) -> Callable[..., Any]:
    """Return a compiled function of features, the cotangent of its result, and parameters."""

    @jax.jit
    def run(x: jax.Array, cotangent: jax.Array, *params: jax.Array) -> Any:
        y, back = jax.vjp(lambda x: function(x, *params), x)
        return y, back(cotangent)

    return run


def torch_forward_and_back(function: Callable[..., torch.Tensor]) -> Callable[..., Any]:
    def run(x: torch.Tensor, cotangent: torch.Tensor, *params: torch.Tensor) -> Any:
        y = function(x.requires_grad_(), *params)
        return y, torch.autograd.grad(y, x, cotangent)

    return run


def convolve(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return jax.nn.relu(conv3x3(x, kernel) + bias)


def torch_convolve(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return torch.relu(torch.nn.functional.conv2d(x, kernel, bias, padding=1))


def torch_gram(x: torch.Tensor) -> torch.Tensor:
    flat = x.flatten(2)[0]
    return flat @ flat.T / flat.shape[1]


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(ours: Callable[[], Any], peers: Callable[[], Any], rounds: int) -> tuple[float, float]:
    """Return the medians of both in turns, after one run of each to compile and warm up."""
    taken = [(seconds(ours), seconds(peers)) for _ in range(rounds + 1)][1:]
    return statistics.median(a for a, _ in taken), statistics.median(b for _, b in taken)


def operations(layer: str) -> list[tuple[str, Any, Any]]:
    """Return the operations that end at a layer, of jaxnst and of torch, by name."""
    if layer.startswith("pool"):
        pool = torch.nn.functional.max_pool2d
        return [(layer, max_pool, lambda x: pool(x, 2))]
    found: list[tuple[str, Any, Any]] = []
    if layer.startswith("relu"):
        found.append((layer.replace("relu", "conv"), convolve, torch_convolve))
        if layer.endswith("_1"):
            found.append((f"Gram {layer}", jaxnst.gram_matrix, torch_gram))
    return found


def to_torch(x: Any) -> torch.Tensor:
    """Return features in torch's order of axes: (1, c, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(x), -1, 0)[None]))


def profile(size: int, rounds: int) -> list[tuple[str, float, float]]:
    params = jaxnst.load_params()
    image = jaxnst.load_image(f"{jaxnst.__path__[0]}/demo/content.jpg", size=size)
    layers = LAYERS[: LAYERS.index(LAST) + 1]
    features = jaxnst.extract_features(image, params, layers=layers)
    before = image
    rows: list[tuple[str, float, float]] = []
    for layer in layers:
        for name, function, peer in operations(layer):
            x = features[layer] if name.startswith("Gram") else before
            given: list[jax.Array] = []
            theirs: list[torch.Tensor] = []
            if name in CONV_SHAPES:
                kernel, bias = params[name]["kernel"], params[name]["bias"]
                given = [kernel, bias]
                theirs = [torch.from_numpy(np.array(kernel).transpose(3, 2, 0, 1).copy())]
                theirs.append(torch.from_numpy(np.array(bias)))
            cotangent = jnp.ones(jax.eval_shape(function, x, *given).shape)
            run, run_peer = forward_and_back(function), torch_forward_and_back(peer)
            flat = to_torch(cotangent) if cotangent.ndim == 3 else torch.ones(cotangent.shape)
            theirs = [to_torch(x), flat, *theirs]

            def ours(run: Any = run, args: Any = (x, cotangent, *given)) -> Any:
                return jax.block_until_ready(run(*args))

            def peers(run: Any = run_peer, args: Any = theirs) -> Any:
                return run(*args)

            rows.append((name, *compare(ours, peers, rounds)))
        if not layer.startswith("conv"):
            before = features[layer]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="pixels of the long side")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    rows = profile(args.size, args.rounds)
    total, peers_total = sum(ours for _, ours, _ in rows), sum(peers for *_, peers in rows)
    print("| operation | jaxnst, ms | share | torch, ms | ratio |\n|---|---|---|---|---|")
    for name, ours, peers in [*rows, ("sum", total, peers_total)]:
        print(
            f"| {name} | {1000 * ours:.1f} | {100 * ours / total:.0f} % | {1000 * peers:.1f} "
            f"| {ours / peers:.2f} |"
        )


if __name__ == "__main__":
    main()
