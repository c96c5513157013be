"""Make the pictures of the gallery, and the page that shows them with their commands.

    python docs/gallery.py [--files FOLDER] [NAME ...]

Without names it makes all pictures, in about half an hour on two cores; the page is always written.
The name "demo" is for demo.jpg, which README shows first.
Photographs come with scikit-image and scikit-learn (`jaxnst[bench]`), the cat and the night with
jaxnst. The other paintings are in the public domain; they are downloaded, or found in a folder.
With `--large PICTURE` it only cuts large.jpg from the picture of the command in devices.md.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

import jaxnst
from jaxnst.app.cli import main as jaxnst_command

DOCS = Path(__file__).parent
FOLDER = DOCS / "gallery"


class Shown(NamedTuple):
    """A picture of the gallery."""

    title: str
    command: str  #: of jaxnst, with inputs by name and without -o


#: The long side in pixels of all pictures but textures, and fewer evaluations than by default.
OPTIONS = "--size 320 --num-steps 50"
#: Pictures by the names of their files.
GALLERY = {
    "temple-olives": Shown(
        "A temple in the strokes of Van Gogh's olive trees", "transfer china.jpg vg_olive.jpg"
    ),
    "flower-wave": Shown("A flower as a woodblock print", "transfer flower.jpg wave.jpg"),
    "portrait-self": Shown(
        "An astronaut as Van Gogh painted himself", "transfer astronaut.png vg_self.jpg"
    ),
    "coffee-houses": Shown(
        "A cup of coffee, drawn in chalk colours", "transfer coffee.png vg_houses.jpg"
    ),
    "motor-abstract": Shown("A motorcycle, abstract", "transfer motorcycle_left.png edtaonisl.jpg"),
    "temple-glass": Shown(
        "The temple as a stained-glass window", "transfer china.jpg hibiscus.regular.png"
    ),
    "coffee-own-colours": Shown(
        "The strokes of a café at night, the colours of the photograph",
        "transfer coffee.png vg_la_cafe.jpg --color content-luminance",
    ),
    "temple-blend": Shown(
        "Two styles at once", "transfer china.jpg vg_olive.jpg wave.jpg --blend 1 1"
    ),
    "cat-regions": Shown(
        "Two styles in two halves",
        "transfer content.jpg style.jpg wave.jpg --masks l.png r.png",
    ),
    "cat-kept": Shown(
        "A painted room, and a cat that stays as it is",
        "transfer content.jpg style.jpg --content-mask face.png",
    ),
    "portrait-broad": Shown(
        "Strokes twice as broad", "transfer astronaut.png vg_houses.jpg --style-scale 2"
    ),
    "cat-crowsonkb": Shown(
        "The recipe of K. Crowson's style-transfer-pytorch",
        "transfer content.jpg style.jpg --preset crowsonkb --num-steps 100 60",
    ),
    "cat-gatys": Shown(
        "The recipe of pastiche, near to Gatys' own",
        "transfer content.jpg vg_olive.jpg --preset pastiche --num-steps 150",
    ),
    "texture-olives": Shown(
        "A texture without a seam, made of olive trees", "texture vg_olive.jpg --tileable"
    ),
    "texture-wave": Shown(
        "Another, made of a print, laid two by two", "texture wave.jpg --tileable"
    ),
    "mixed-strokes": Shown(
        "A new style: the strokes of one painting, the shapes of another",
        "mix vg_la_cafe.jpg edtaonisl.jpg",
    ),
}
#: Pictures that README shows in a row, at one height.
ROW = ("temple-glass", "flower-wave", "motor-abstract", "texture-wave")
SOURCES = """\
Sources: `content.jpg` (a cat) and `style.jpg` (a painted night sky) are bundled with jaxnst.
`astronaut.png`, `coffee.png` and `motorcycle_left.png` come with scikit-image, `china.jpg` and
`flower.jpg` with scikit-learn. The paintings are in the public domain: Van Gogh's self-portrait
(`vg_self`), olive trees (`vg_olive`), night café (`vg_la_cafe`) and houses at Auvers (`vg_houses`),
Hokusai's great wave (`wave`), Picabia's *Edtaonisl* and a window by Tiffany (`hibiscus`);
`benchmarks/sources.py` has their addresses. The masks are drawn by `docs/gallery.py`.
"""


def full(shown: Shown) -> str:
    """Return the command as the page shows it."""
    if shown.command.startswith("texture"):
        return f"{shown.command} {OPTIONS.replace('320', '256')}"
    size, _, _ = OPTIONS.partition(" --num-steps")
    return f"{shown.command} {size if '--num-steps' in shown.command else OPTIONS}"


def page() -> str:
    """Return the text of gallery.md."""
    parts = [
        "# Gallery\n",
        "Each picture is the output of the command below it, with the option `-o` added. The\n"
        "script `docs/gallery.py` makes them all.\n",
    ]
    for name, shown in GALLERY.items():
        parts.append(f"## {shown.title}\n")
        parts.append(f"![{shown.title}](gallery/{name}.jpg)\n")
        parts.append(f"`jaxnst {full(shown)}`\n")
    return "\n".join([*parts, SOURCES])


def draw_masks(folder: Path) -> None:
    """Write the masks, which fit the cat."""
    rows, columns = np.mgrid[:256, :384] / np.array([256, 384])[:, None, None]
    right = np.clip((columns - 0.47) / 0.06, 0, 1)
    off = np.hypot((rows - 0.42) / 0.36, (columns - 0.5) / 0.24)
    masks = {"l": 1 - right, "r": right, "face": np.clip((1.15 - off) / 0.15, 0, 1)}
    for name, mask in masks.items():
        Image.fromarray(np.uint8(255 * mask + 0.5)).save(folder / f"{name}.png")


def make(name: str, folder: Path, files: Path | None) -> None:
    """Run the command of a picture, and keep its result as a JPEG."""
    sys.path.append(str(DOCS.parent / "benchmarks"))
    from sources import find

    def path(word: str) -> str:
        if "." not in word or word[0].isdigit():
            return word
        drawn = folder / word
        return str(drawn if drawn.exists() else find(word, files))

    output = folder / f"{name}.png"
    words = [path(word) for word in full(GALLERY[name]).split()]
    if jaxnst_command([*words, "-o", str(output)]) != 0:
        raise SystemExit(f"jaxnst {full(GALLERY[name])} failed")
    with Image.open(output) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    if "two by two" in GALLERY[name].title:
        pixels = np.tile(pixels, (2, 2, 1))
    FOLDER.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(FOLDER / f"{name}.jpg", quality=88, optimize=True)


def at_height(path: Path, height: int) -> Image.Image:
    """Return a picture, resized to a height."""
    with Image.open(path) as picture:
        width = round(picture.width * height / picture.height)
        rgb = picture.convert("RGB")
    return rgb.resize((width, height), Image.Resampling.LANCZOS)


def in_a_row(pictures: list[Image.Image], gap: int) -> Image.Image:
    """Return pictures of one height side by side."""
    width = sum(picture.width + gap for picture in pictures) - gap
    row = Image.new("RGB", (width, pictures[0].height), "white")
    left = 0
    for picture in pictures:
        row.paste(picture, (left, 0))
        left += picture.width + gap
    return row


def make_demo(folder: Path) -> None:
    """Write demo.jpg, which README shows first: the bundled pictures and what becomes of them."""
    bundled = [
        Path(jaxnst.__file__).parent / "demo" / f"{name}.jpg" for name in ("content", "style")
    ]
    output = folder / "demo.png"
    if jaxnst_command(["transfer", *map(str, bundled), "--size", "512", "-o", str(output)]) != 0:
        raise SystemExit("jaxnst transfer failed")
    pictures = [at_height(path, 300) for path in (*bundled, output)]
    in_a_row(pictures, 12).save(DOCS / "demo.jpg", quality=92, optimize=True)


def make_large(path: Path) -> None:
    """Write large.jpg, a whole picture of 4096×3072 pixels beside the corner of four tiles."""
    height, (x, y) = 600, (3072, 1024)
    with Image.open(path) as picture:
        corner = picture.crop((x - 200, y - height // 2, x + 200, y + height // 2))
    row = in_a_row([at_height(path, height), corner], 16)
    row.save(DOCS / "large.jpg", quality=88, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=Path, help="folder with the paintings")
    parser.add_argument("names", nargs="*", default=[*GALLERY, "demo"], metavar="NAME")
    parser.add_argument("--large", type=Path, help="the picture of the command in devices.md")
    args = parser.parse_args()
    if args.large:
        make_large(args.large)
        return
    with tempfile.TemporaryDirectory() as temporary:
        draw_masks(Path(temporary))
        for name in args.names:
            if name == "demo":
                make_demo(Path(temporary))
            else:
                make(name, Path(temporary), args.files)
    (DOCS / "gallery.md").write_text(page(), encoding="utf-8")
    shown = [FOLDER / f"{name}.jpg" for name in ROW]
    if all(path.exists() for path in shown):
        pictures = [at_height(path, 240) for path in shown]
        in_a_row(pictures, 6).save(DOCS / "row.jpg", quality=88, optimize=True)


if __name__ == "__main__":
    main()
