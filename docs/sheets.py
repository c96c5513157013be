"""Make the sheets of docs/sheets: for each control, pictures with and without it, side by side.

    python docs/sheets.py [NAME ...]

Pictures are made by the command line, whose options stand below them. All inputs are bundled with
jaxnst, come with scikit-image (`jaxnst[bench]`), or are drawn here. A sheet takes some minutes.
"""

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import skimage.data
from PIL import Image

import jaxnst
from jaxnst.app.cli import main as jaxnst_command
from jaxnst.app.sheet import contact_sheet
from jaxnst.sources import Picture

FOLDER = Path(__file__).parent / "sheets"
DEMO = Path(jaxnst.__file__).parent / "demo"
SIZE = 256

#: Options by sheet. "cat" and "coffee" are photographs; "night", "cells" and "bricks" are styles.
COMMANDS = {
    "weights": [f"transfer cat night --style-weight {weight}" for weight in (0.5, 2, 8, 32)],
    "blend": [
        f"transfer cat night cells --blend {blend}" for blend in ("1 0", "2 1", "1 2", "0 1")
    ],
    "regions": [
        "transfer cat night",
        "transfer cat night cells --masks left right",
        "transfer cat night cells --masks left right --guides inside",
        "transfer cat night cells --masks face around",
    ],
    "protection": ["transfer cat night", "transfer cat night --content-mask face"],
    "colours": [
        f"transfer coffee night --color {color}"
        for color in ("style", "content-luminance", "match", "content-after")
    ],
    "strokes": [f"transfer coffee night --style-scale {scale}" for scale in (0.5, 1, 2)],
    "starts": [
        "transfer cat night",
        "transfer cat night --init style",
        "transfer cat night --init mean",
        "transfer cat night --init noise",
        "transfer cat night --noise-share 0.5 --noise-exponent 1",
    ],
    "network": [
        "transfer coffee night",
        "transfer coffee night --pooling average",
        "transfer coffee night --padding zero",
    ],
    "variation": [
        f"transfer coffee night --tv-weight {weight}" for weight in ("0", "1", "5", "50")
    ],
    "mixed": ["mix night cells", "mix cells night", "mix night bricks"],
}


def draw_inputs(folder: Path) -> None:
    """Write the pictures that are not bundled, and masks for the cat."""
    height, width = jaxnst.load_image(DEMO / "content.jpg").shape[:2]
    across = np.linspace(0, 1, width)[None, :] + np.zeros((height, 1))
    rows, columns = np.mgrid[:height, :width]
    off = np.hypot((rows / height - 0.42) / 0.36, (columns / width - 0.5) / 0.24)
    right = np.clip((across - 0.47) / 0.06, 0, 1)
    face = np.clip((1.15 - off) / 0.15, 0, 1)
    drawn = {"left": 1 - right, "right": right, "face": face, "around": 1 - face}
    pictures = {name: np.repeat(mask[:, :, None], 3, 2) for name, mask in drawn.items()}
    for name, picture in (
        ("coffee", skimage.data.coffee()),
        ("cells", skimage.data.immunohistochemistry()),
        ("bricks", np.repeat(skimage.data.brick()[:, :, None], 3, 2)),
    ):
        pictures[name] = picture / 255
    for name, picture in pictures.items():
        jaxnst.save_image(folder / f"{name}.png", jnp.asarray(picture, jnp.float32))


def paths_in(folder: Path) -> dict[str, Path]:
    """Return the inputs by their names, photographs and styles before masks."""
    drawn = ("coffee", "cells", "bricks", "left", "right", "face", "around")
    bundled = {"cat": DEMO / "content.jpg", "night": DEMO / "style.jpg"}
    return bundled | {name: folder / f"{name}.png" for name in drawn}


@cache
def make(line: str, folder: Path) -> np.ndarray:
    """Return the picture that a command makes of the inputs in a folder."""
    output = folder / "made.png"
    words = [str(paths_in(folder).get(word, word)) for word in line.split()]
    words += ["-o", str(output), "--size", str(SIZE), "--num-steps", "50"]
    if jaxnst_command(words) != 0:
        raise SystemExit(f"jaxnst {line} failed")
    return np.asarray(jaxnst.load_image(output))


def save(name: str, sheet: np.ndarray) -> None:
    """Write a sheet in a quality that keeps the repository light."""
    pixels = np.uint8(np.asarray(sheet) * 255 + 0.5)
    Image.fromarray(pixels).save(FOLDER / f"{name}.jpg", quality=85, optimize=True)


def by_commands(name: str, folder: Path) -> None:
    images, labels = [], []
    words = " ".join(COMMANDS[name]).split()
    for word, path in paths_in(folder).items():
        if word in words:
            images.append(jaxnst.load_image(path, size=SIZE))
            labels.append(word)
    for line in COMMANDS[name]:
        images.append(make(line, folder))
        labels.append(line.partition(" ")[2])
    save(name, contact_sheet(images, labels, size=SIZE))


def statistics(folder: Path) -> None:
    """Compare styles by each statistic, weighted so that the losses begin equally large."""
    content, style = (
        jaxnst.load_image(paths_in(folder)[name], size=192) for name in ("coffee", "night")
    )
    params = jaxnst.load_params()
    config, weights = jaxnst.preset("default")
    config = replace(config, num_steps=50)
    gram = config.objective.terms["style"]
    kinds = {
        "Gram matrix": gram,
        "mean and deviation": replace(
            gram, statistic=jaxnst.mean_and_deviation, distance=jaxnst.moments_error
        ),
        "Gaussians by transport": replace(
            gram, statistic=jaxnst.mean_and_covariance, distance=jaxnst.wasserstein_gaussian
        ),
        "histograms": replace(gram, statistic=jaxnst.quantile_means),
        "sliced Wasserstein": replace(gram, statistic=jaxnst.sliced_quantile_means),
    }
    images, labels = [content, style], ["content", "style"]
    first = {}
    for name, term in kinds.items():
        objective = replace(config.objective, terms={**config.objective.terms, "style": term})
        chosen = weights
        for layer in term.layers:
            only = replace(objective, terms={"style": replace(term, layers=(layer,))})
            ones = jaxnst.LossWeights.ones(only)
            targets = jaxnst.compute_targets({"style": style}, params, objective=only)
            loss = float(jaxnst.perceptual_loss(content, params, targets, ones, objective=only)[0])
            first.setdefault(layer, loss)
            old = weights.layers["style"][layer]
            chosen = chosen.replace_layers(style={layer: old * first[layer] / loss})
        result = jaxnst.style_transfer(
            content,
            Picture(style),
            params=params,
            config=replace(config, objective=objective),
            weights=chosen,
        )
        images.append(result.image)
        labels.append(name)
    save("statistics", contact_sheet(images, labels, size=SIZE))


def tiles(folder: Path) -> None:
    """Show textures that tile the plane, two by two."""
    images, labels = [], []
    for line in ("texture bricks", "texture night"):
        for option in ("", " --tileable"):
            images.append(np.tile(make(line + option, folder), (2, 2, 1)))
            labels.append(f"{line}{option}, two by two")
    save("tiles", contact_sheet(images, labels, columns=2, size=2 * SIZE))


SHEETS: dict[str, Callable[..., None]] = {"statistics": statistics, "tiles": tiles}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*COMMANDS, *SHEETS]
    parser.add_argument("names", nargs="*", default=names, metavar="NAME")
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw_inputs(folder)
        for name in args.names:
            if name in COMMANDS:
                by_commands(name, folder)
            else:
                SHEETS[name](folder)


if __name__ == "__main__":
    main()
