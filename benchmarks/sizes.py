"""Compare sizes: make a sheet of the default recipe's pictures, and print what style loss remains.

    python benchmarks/sizes.py photo.jpg painting.jpg -o sheet.jpg

For each layer and size it prints the style loss of the result divided by that of the content
picture. The last column is the largest of these ratios divided by the smallest. Both pictures
should have at least as many pixels as the largest size, or they are enlarged.
"""

import argparse
import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np

import jaxnst
from jaxnst.app.sheet import contact_sheet
from jaxnst.pyramid import resize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("content", type=Path)
    parser.add_argument("style", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("-o", "--output", type=Path, default=Path("sheet.jpg"))
    args = parser.parse_args()
    params = jaxnst.load_params()
    config, weights = jaxnst.preset("default")
    terms = {"style": config.objective.terms["style"]}
    style_alone = dataclasses.replace(config.objective, terms=terms)
    images, labels, left = [], [], []
    for size in args.sizes:
        content, style = (jaxnst.load_image(p, size=size) for p in (args.content, args.style))
        result = jaxnst.style_transfer(
            content,
            style,
            params=params,
            weights=weights,
            config=config,
        )
        images.append(np.asarray(result.image))
        labels.append(f"{size} pixels")
        wanted, before, after = (
            jaxnst.compute_targets({"style": image}, params, objective=style_alone)["style"]
            for image in (style, content, result.image)
        )
        left.append(
            {
                layer: float(
                    jnp.sum((after[layer] - wanted[layer]) ** 2)
                    / jnp.sum((before[layer] - wanted[layer]) ** 2)
                )
                for layer in wanted
            }
        )
        print(f"{size}: {result.history['seconds'][-1]:.0f} s", left[-1], flush=True)
        jaxnst.save_image(args.output.with_suffix(f".{size}.png"), result.image)
    height, width = images[len(images) // 2].shape[:2]  # all are shown at this size
    shown = [resize(jnp.asarray(image), height, width) for image in images]
    sheet = contact_sheet(shown, labels, columns=len(images), size=max(height, width))
    jaxnst.save_image(args.output, sheet)
    print(f"{'':>10}" + "".join(f"{size:>12}" for size in args.sizes) + f"{'factor':>10}")
    for layer in left[0]:
        row = [at[layer] for at in left]
        cells = "".join(f"{value:>12.2e}" for value in row)
        print(f"{layer:>10}{cells}{max(row) / min(row):>10.2f}")


if __name__ == "__main__":
    main()
