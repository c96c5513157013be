"""Make pictures of twelve pairs by several recipes, score them, and show them side by side.

    python benchmarks/pictures.py --half choose --recipes default crowsonkb pastiche -o pictures

It needs `jaxnst[bench]` and downloads the paintings named in sources.py, or finds them in the
folder that `--files` names. Recipes are tuned on the half `choose`; `confirm` tells whether that
holds for other pictures. It writes each picture, scores.jsonl with a line for each, and a sheet for
each pair with enlarged crops, and prints the means.

Scores, all by parts of VGG19 that no recipe optimises, or by the pixels:

- content: squared distance at relu4_2, relative to the content's own energy
- similarity: mean difference of the cosine distances between positions at relu4_2 (STROTSS)
- gram3_3, gram4_3: squared distance of Gram matrices, relative to the style's own
- sliced: sliced Wasserstein distance at relu3_3, relative to the style's own energy
- ssim: structural similarity of the luminance to the content's
- fine: share of the luminance's energy above .35 cycles a pixel, as a multiple of the style's
- copied: correlation of fine detail with the content's
- speckle: detail of the chroma, as a multiple of the style's
- clipped: per cent of samples at 0 or 1 that are not so in the same share in the style
- seconds: of the run, compilation included
- memory: peak of the process during the run, in GB, on Linux
"""

import argparse
import bz2
import dataclasses
import json
import re
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from skimage.metrics import structural_similarity
from sources import find

import jaxnst
from jaxnst.statistics import sliced_quantile_means

#: Contents: scikit-image's and scikit-learn's pictures, matplotlib's portrait, scipy's raccoon.
PAIRS = {
    "choose": {
        "portrait-portrait": ("astronaut.png", "vg_self.jpg"),
        "temple-oil": ("china.jpg", "vg_olive.jpg"),
        "cat-glass": ("chelsea.png", "hibiscus.regular.png"),
        "flower-print": ("flower.jpg", "wave.jpg"),
        "night-vivid": ("rocket.jpg", "vg_la_cafe.jpg"),
        "raccoon-dim": ("face.dat", "harvesters.jpeg"),
    },
    "confirm": {
        "officer-figures": ("grace_hopper.jpg", "tahiti_guaguin.jpg"),
        "coffee-drawing": ("coffee.png", "vg_houses.jpg"),
        "motor-abstract": ("motorcycle_left.png", "edtaonisl.jpg"),
        "temple-portrait": ("china.jpg", "vg_self.jpg"),
        "portrait-print": ("astronaut.png", "wave.jpg"),
        "camera-vivid": ("camera.png", "vg_la_cafe.jpg"),
    },
}

Recipe = jaxnst.Recipe
LINUX = sys.platform == "linux"


@cache
def load(name: str, size: int, files: Path | None) -> jax.Array:
    """Load a picture that `find` knows."""
    path = find(name, files)
    if path.suffix != ".dat":
        return jaxnst.load_image(path, size=size)
    pixels = np.frombuffer(bz2.decompress(path.read_bytes()), np.uint8).reshape(768, 1024, 3)
    return jaxnst.resize(jnp.asarray(pixels, jnp.float32) / 255, round(size * 0.75), size)


def scores(image: Any, content: Any, style: Any, params: Any) -> dict[str, float]:
    layers = ("relu3_3", "relu4_2", "relu4_3")
    # With zeros around the pictures, the strength of the borders would count.
    look = jax.jit(partial(jaxnst.extract_features, layers=layers, padding="replicate"))
    ours, theirs, painted = (look(x, params) for x in (image, content, style))
    found = {"content": _relative(ours["relu4_2"], theirs["relu4_2"])}
    found["similarity"] = float(
        jnp.abs(_distances(ours["relu4_2"]) - _distances(theirs["relu4_2"])).mean()
    )
    for name in ("3_3", "4_3"):
        grams = (jaxnst.gram_matrix(x[f"relu{name}"]) for x in (ours, painted))
        found[f"gram{name}"] = _relative(*grams)
    sliced = jax.jit(partial(sliced_quantile_means, parts=64, directions=128))
    found["sliced"] = _relative(*(sliced(x["relu3_3"]) for x in (ours, painted)))
    y, z, s = (np.asarray(jaxnst.luminance(x))[..., 0] for x in (image, content, style))
    found["ssim"] = float(structural_similarity(y, z, data_range=1.0))
    found["fine"] = _share_of_fine(y) / _share_of_fine(s)
    found["copied"] = float(np.corrcoef(_fine(y).ravel(), _fine(z).ravel())[0, 1])
    a, b = (
        np.asarray(jaxnst.linear_to_oklab(jaxnst.srgb_to_linear(x)))[..., 1:]
        for x in (image, style)
    )
    found["speckle"] = _detail(a) / _detail(b)
    clipped = [float(np.mean((np.asarray(x) <= 0) | (np.asarray(x) >= 1))) for x in (image, style)]
    found["clipped"] = 100 * max(clipped[0] - clipped[1], 0.0)
    return found


def _relative(x: jax.Array, y: jax.Array) -> float:
    return float(jnp.sum((x - y) ** 2) / jnp.sum(y**2))


def _distances(features: jax.Array) -> jax.Array:
    x = features.reshape(-1, features.shape[-1])
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-6)
    return 1 - x @ x.T


def _fine(y: np.ndarray) -> np.ndarray:
    """Return what has a frequency above .35 cycles a pixel, away from the borders."""
    window = np.outer(np.hanning(y.shape[0]), np.hanning(y.shape[1]))
    spectrum = np.fft.rfft2((y - y.mean()) * window)
    rows, columns = np.fft.fftfreq(y.shape[0]), np.fft.rfftfreq(y.shape[1])
    return np.fft.irfft2(spectrum * (np.hypot(rows[:, None], columns) > 0.35), y.shape)


def _share_of_fine(y: np.ndarray) -> float:
    window = np.outer(np.hanning(y.shape[0]), np.hanning(y.shape[1]))
    return float(np.sum(_fine(y) ** 2) / np.sum(((y - y.mean()) * window) ** 2))


def _detail(chroma: np.ndarray) -> float:
    height, width = (side // 2 * 2 for side in chroma.shape[:2])
    blocks = chroma[:height, :width].reshape(height // 2, 2, width // 2, 2, 2)
    return float(np.sqrt(np.mean((blocks - blocks.mean((1, 3), keepdims=True)) ** 2)))


def recipe(name: str) -> Recipe:
    """Return a preset, or a trial of `TRIALS`."""
    return TRIALS[name]() if name in TRIALS else jaxnst.preset(name)


def trial(
    *,
    pooling: str = "max",
    padding: Any = None,
    details: float = 1.0,
    layers: dict[str, float] | None = None,
    content: dict[str, float] | None = None,
    **changes: float,
) -> Recipe:
    """Return the default recipe with other pooling, padding, details, layers or weights of terms.

    `layers` are weights of the style's layers, `content` all layers of the content.
    """
    config, weights = jaxnst.preset("default")
    objective = dataclasses.replace(config.objective, pooling=pooling)
    if padding is not None:
        objective = dataclasses.replace(objective, padding=padding)
    if content is not None:
        term = jaxnst.RelativeContent(tuple(content))
        objective = dataclasses.replace(objective, terms={**objective.terms, "content": term})
        weights = jaxnst.LossWeights(weights.scales, weights.layers | {"content": content})
    config = dataclasses.replace(config, objective=objective, details=details)
    weights = weights.replace(**changes)
    return Recipe(config, weights.replace_layers(style=layers) if layers else weights)


#: The default recipe with one thing changed, by name.
TRIALS: dict[str, Callable[[], Recipe]] = {
    "details-0": partial(trial, details=0.0),
    "details-half": partial(trial, details=0.5),
    "style-2": partial(trial, style=2.0),
    "style-10": partial(trial, style=10.0),
    "style-100": partial(trial, style=100.0),
    "deep-.1": partial(trial, layers={"relu5_1": 0.1}),
    "deep-1": partial(trial, layers={"relu5_1": 1.0}),
    "relu4_1-half": partial(trial, layers={"relu4_1": 0.5}),
    "relu4_2-alone": partial(trial, content={"relu4_2": 1.0}),
    "relu3_1-half": partial(trial, content={"relu3_1": 0.5, "relu4_2": 1.0}),
    "relu2_1": partial(trial, content={"relu2_1": 0.25, "relu3_1": 0.5, "relu4_2": 1.0}),
    "fine-2": partial(trial, layers={"relu1_1": 2.0, "relu2_1": 2.0}),
    "average": partial(trial, pooling="average"),
    "l2": partial(trial, pooling="l2"),
    "tv-0": partial(trial, tv=0.0),
    "tv-half": partial(trial, tv=0.5),
    "tv-2": partial(trial, tv=2.0),
    "range-0": partial(trial, range=0.0),
    "zeros": partial(trial, padding="zero"),
    "zeros-deeper": partial(trial, padding=("replicate", "zero")),
}


def run(name: str, content: Any, style: Any, params: Any) -> tuple[Any, dict[str, float]]:
    config, weights = recipe(name)
    # Peers get the seconds of the default recipe or more.
    steps: dict[str, Any] = {"pastiche": 150, "crowsonkb": (80, 40)}
    if name in steps:
        config = dataclasses.replace(config, num_steps=steps[name])
    took, began = {}, time.perf_counter()
    if LINUX:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is in use
    result = jaxnst.style_transfer(content, style, params=params, config=config, weights=weights)
    image = jax.block_until_ready(result.image)
    took["seconds"] = time.perf_counter() - began
    if LINUX:
        (peak,) = re.findall(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
        took["memory"] = int(peak) * 1024 / 1e9
    return image, took


def sheet(images: list[Any], titles: list[str], path: Path) -> None:
    """Show pictures side by side, a crop of each below, three times as large."""
    height, width = images[0].shape[:2]
    side = min(height, width) // 3
    canvas = Image.new("RGB", (len(images) * (width + 8), height + 3 * side + 8), "white")
    for i, image in enumerate(images):
        picture = Image.fromarray(np.uint8(np.asarray(image) * 255 + 0.5))
        shown = picture.copy()
        shown.thumbnail((width, height))
        canvas.paste(shown, (i * (width + 8), 0))
        left, top = (picture.width - side) // 2, (picture.height - side) // 3
        crop = picture.crop((left, top, left + side, top + side))
        canvas.paste(crop.resize((3 * side, 3 * side), 0), (i * (width + 8), height + 8))
    canvas.save(path)
    print(f"{path}: {', '.join(titles)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--half", choices=tuple(PAIRS), default="choose")
    parser.add_argument("--pairs", nargs="+", help="only these")
    parser.add_argument("--recipes", nargs="+", default=["default", "crowsonkb", "pastiche"])
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--files", type=Path, help="folder with the paintings of sources.py")
    parser.add_argument("-o", "--output", type=Path, default=Path("pictures"))
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    params = jaxnst.load_params()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in args.recipes}
    for pair, names in PAIRS[args.half].items():
        if args.pairs and pair not in args.pairs:
            continue
        content, style = (load(name, args.size, args.files) for name in names)
        images = [content, style]
        for name in args.recipes:
            image, took = run(name, content, style, params)
            images.append(image)
            row = scores(image, content, style, params) | took
            rows[name].append(row)
            jaxnst.save_image(args.output / f"{pair}-{name}.png", image)
            with (args.output / "scores.jsonl").open("a") as file:
                file.write(json.dumps({"pair": pair, "recipe": name} | row) + "\n")
            print(f"{pair:18} {name:14}", *(f"{k} {v:.3g}" for k, v in row.items()), flush=True)
        sheet(images, ["content", "style", *args.recipes], args.output / f"{pair}.png")
    print("\ngeometric means (ssim and copied: means)")
    for name, of_recipe in rows.items():
        means = {
            key: np.mean([row[key] for row in of_recipe])
            if key in ("ssim", "copied", "clipped")
            else np.exp(np.mean([np.log(max(row[key], 1e-6)) for row in of_recipe]))
            for key in of_recipe[0]
        }
        print(f"{name:18}", *(f"{k} {v:.3g}" for k, v in means.items()))


if __name__ == "__main__":
    main()
