"""Any VGG19 file becomes Flax params, and params become files."""

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from jaxnst.containers import open_container, write_hdf5, write_safetensors
from jaxnst.known_files import KnownFile, identify
from jaxnst.layouts import (
    INPUT_RULES,
    Input,
    InputRule,
    Recognised,
    Stored,
    fold_input,
    own_input_rule,
    read_leaf,
    recognise,
)
from jaxnst.vgg import CONV_SHAPES, Params

Shape = tuple[int, ...] | None
_WRITERS = {".h5": write_hdf5, ".hdf5": write_hdf5, ".safetensors": write_safetensors}


def bundled_weights() -> Path:
    """Where the bundled VGG19 lies: in the installed package, else in `weights/` of the clone.

    Raises:
        FileNotFoundError: in neither.
    """
    package = Path(__file__).resolve().parent
    places = (package / "weights" / "vgg19.h5", package.parent / "weights" / "vgg19.h5")
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(f"the bundled VGG19 is neither {places[0]} nor {places[1]}; reinstall")


def load_params(path: str | PathLike[str] | None = None, *, input: Input | None = None) -> Params:
    """The params of VGG19, ready for `extract_features`, from any file that holds one.

    Formats are told apart by content: Keras' HDF5 in all its layouts, torch files (read without
    torch, and without running anything in them), safetensors, MatConvNet's .mat (wants scipy),
    and jaxnst's own. docs/weights.md lists them.

    Args:
        path: the file; None for the bundled VGG19, an 8-bit quantisation of the Oxford weights
            (see weights/README.md).
        input: what the network wants of its input: "caffe" (BGR in 0..255 less the mean, as the
            Oxford weights) or "torchvision" (RGB in [0, 1] by mean and deviation). Needed only
            where neither the layout nor the checksum tells.

    Returns:
        `{"normalize": {"mean": (3,), "std": (3,)}, "conv1_1": {"kernel", "bias"}, …, "conv5_4"}`
        with kernels HWIO in float32. What the network wants of its input is folded into conv1_1
        and `normalize`, so all params take sRGB in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of no known format, broken, not VGG19, or not finite; or `input` is
            needed, or is not what the file is certain to want.
    """
    source = bundled_weights() if path is None else Path(path)
    if input is not None and input not in INPUT_RULES:
        raise ValueError(f"input must be one of {', '.join(INPUT_RULES)}, not {input!r}")
    with open_container(source) as container:
        recognised = recognise(container.arrays)
        if recognised is None:
            raise ValueError(
                f"{source} is a {container.kind} file, but holds no VGG19 in a known layout; "
                f"its arrays are {_listed(container.arrays)}"
            )
        if recognised.mismatches:
            raise ValueError(f"{source} is not VGG19: {_describe(recognised.mismatches)}")
        for leaf, array in recognised.leaves.items():
            if not jnp.issubdtype(array.dtype, jnp.floating):
                raise ValueError(f"{source}: {leaf} holds {array.dtype}, not floating numbers")
        rule = _input_rule(source, recognised, input)
        params: Params = {}
        for layer in CONV_SHAPES:
            kernel, bias = (read_leaf(recognised, f"{layer}/{x}") for x in ("kernel", "bias"))
            if layer == "conv1_1":
                kernel = fold_input(kernel, rule.mix)
            # To the device one by one, so that the host never holds all of them beside.
            params[layer] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
        normalize = {"mean": np.float32(rule.mean), "std": np.float32(rule.std)}
        params["normalize"] = jax.tree.map(jnp.asarray, normalize)
    check_params(params, str(source))
    return params


def _input_rule(source: Path, recognised: Recognised, wanted: Input | None) -> InputRule:
    """The rule that is certain from the layout or the checksum, else the one that is asked for."""
    layout = recognised.layout
    certain = _certain_input(source, recognised)
    if certain is not None and wanted not in (None, certain):
        raise ValueError(
            f"{source} has the layout {layout.name} and the input rule {certain!r}, "
            f"so input={wanted!r} would give wrong features; leave it out"
        )
    if certain == "own":
        try:
            return own_input_rule(recognised)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from None
    name = certain or wanted
    if name is None:
        raise ValueError(
            f"{source} has the layout {layout.name}, in which networks of two kinds are published: "
            'say input="torchvision" (RGB by mean and deviation, such as torchvision and timm) or '
            'input="caffe" (BGR in 0..255 less the mean, the Oxford weights)'
        )
    rule = INPUT_RULES[name]
    return rule._replace(mix=rule.mix[::-1]) if layout.rgb else rule


def _certain_input(source: Path, recognised: Recognised) -> str | None:
    if recognised.layout.input is not None:
        return recognised.layout.input
    known = identify(source)
    return known.input if known else None


def _describe(mismatches: dict[str, tuple[Shape, Shape]]) -> str:
    """Expected and found shapes side by side, on one line."""
    return "; ".join(
        f"{name}: expected {show_shape(expected)}, found {show_shape(found)}"
        for name, (expected, found) in sorted(mismatches.items())
    )


def show_shape(shape: Shape) -> str:
    """A shape as text, and "nothing" where there is none."""
    return "nothing" if shape is None else str(shape)


def _listed(arrays: dict[str, Stored]) -> str:
    names = [repr(name) for name in list(arrays)[:5]]
    return ", ".join([*names, "…"] if len(arrays) > 5 else names) or "none"


class WeightsFile(NamedTuple):
    """What is known of a weights file without loading it; see `inspect_weights`."""

    path: Path
    container: str  #: "HDF5", "torch", "safetensors" or "MATLAB"
    num_arrays: int
    layout: str | None  #: whose naming it has; None if it holds no VGG19 in a known one
    input: str | None  #: "caffe", "torchvision", "own", or None where it has to be asked for
    known: KnownFile | None  #: the published file that it is, by its checksum
    mismatches: dict[str, tuple[Shape, Shape]]  #: expected and found shapes that differ


def inspect_weights(path: str | PathLike[str]) -> WeightsFile:
    """Find out what a weights file is.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is of no known format, or broken.
    """
    source = Path(path)
    with open_container(source) as (container, arrays):
        recognised = recognise(arrays)
        if recognised is None:
            return WeightsFile(source, container, len(arrays), None, None, identify(source), {})
        return WeightsFile(
            source,
            container,
            len(arrays),
            recognised.layout.name,
            _certain_input(source, recognised),
            identify(source),
            recognised.mismatches,
        )


def save_params(path: str | PathLike[str], params: Params) -> None:
    """Write params as `.safetensors` or as jaxnst's own HDF5 (`.h5`), to be read back the same.

    In HDF5 a kernel of at most 256 different values, such as `quantize_params` makes, takes 8 bits
    a value, any other 32. The target is replaced at once and only on success.

    Args:
        path: the target; its suffix says which format.
        params: from `load_params`.

    Raises:
        ValueError: the suffix is another one, or params are not a finite VGG19.
        OSError: the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in _WRITERS:
        raise ValueError(
            f"{target} has the unknown suffix {target.suffix!r}: use .safetensors or .h5"
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent}: make it first")
    check_params(params)
    names = [("normalize", x) for x in ("mean", "std")]
    names += [(layer, x) for layer in CONV_SHAPES for x in ("kernel", "bias")]
    arrays = {f"{layer}/{x}": np.asarray(params[layer][x], np.float32) for layer, x in names}
    _WRITERS[target.suffix.lower()](target, arrays)


def quantize_params(params: Params, *, iterations: int = 20) -> Params:
    """Params whose kernels have at most 256 different values each; see `save_params`.

    Each value is replaced by the nearest of 256 that `iterations` of Lloyd's algorithm (1982)
    have moved towards the least squared error. Biases stay as they are.
    """
    check_params(params)
    return {
        layer: {
            name: jnp.asarray(_nearest_of_256(np.asarray(leaf), iterations))
            if name == "kernel"
            else leaf
            for name, leaf in leaves.items()
        }
        for layer, leaves in params.items()
    }


def _nearest_of_256(kernel: npt.NDArray[np.float32], iterations: int) -> npt.NDArray[np.float32]:
    values = np.sort(kernel, axis=None).astype(np.float64)
    if np.unique(values).size <= 256:
        return kernel
    sums = np.concatenate([[0.0], np.cumsum(values)])
    # Half of the codes start at quantiles, where the values are; half cover the range, where a few
    # large values would otherwise be far from any code.
    codebook = np.sort(np.concatenate([
        np.quantile(values, np.linspace(0, 1, 128)), np.linspace(values[0], values[-1], 128)
    ]))  # fmt: skip
    for _ in range(iterations):
        edges = np.searchsorted(values, (codebook[1:] + codebook[:-1]) / 2)
        first, last = np.append(0, edges), np.append(edges, values.size)
        count = last - first
        mean = (sums[last] - sums[first]) / np.maximum(count, 1)
        codebook = np.where(count > 0, mean, codebook)  # means of neighbours stay in order
    codebook = codebook.astype(np.float32)
    return codebook[np.searchsorted((codebook[1:] + codebook[:-1]) / 2, kernel)]


def check_params(params: Params, name: str = "params") -> None:
    """Raise ValueError unless `params` is a VGG19 of the expected keys and shapes, all finite."""
    expected: dict[str, Shape] = {"normalize/mean": (3,), "normalize/std": (3,)}
    for layer, shape in CONV_SHAPES.items():
        expected |= {f"{layer}/kernel": shape, f"{layer}/bias": shape[-1:]}
    found = {f"{layer}/{leaf}": np.shape(a) for layer, d in params.items() for leaf, a in d.items()}
    wrong = {
        key: (expected.get(key), found.get(key))
        for key in expected.keys() | found.keys()
        if expected.get(key) != found.get(key)
    }
    if wrong:
        raise ValueError(f"{name} is not VGG19: {_describe(wrong)}")
    for layer, leaves in params.items():
        if not all(np.isfinite(leaf).all() for leaf in leaves.values()):
            raise ValueError(f"{name}: {layer} holds values that are not finite")
    if not (np.asarray(params["normalize"]["std"]) > 0).all():
        raise ValueError(f"{name}: normalize/std has to be positive")
