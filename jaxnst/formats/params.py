"""Load, save, check and inspect the params of VGG19."""

from os import PathLike
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxnst.formats.containers import Container, open_container, write_hdf5, write_safetensors
from jaxnst.formats.known_files import KnownFile, identify
from jaxnst.formats.layouts import (
    INPUT_RULES,
    LEAF_SHAPES,
    NORMALIZE_SHAPES,
    Input,
    InputRule,
    Mismatches,
    Recognised,
    Shape,
    compare_shapes,
    fold_input,
    layers_of,
    name_network,
    own_input_rule,
    read_leaf,
    recognise,
    up_to_deepest,
)
from jaxnst.formats.refusal import quote, refuse, refusing
from jaxnst.vgg import Params

_WRITERS = {".h5": write_hdf5, ".hdf5": write_hdf5, ".safetensors": write_safetensors}


def bundled_weights() -> Path:
    """Return the path of the bundled VGG19, in the installed package or in a clone's `weights/`.

    Raises:
        FileNotFoundError: it is in neither place.

    >>> bundled_weights().name
    'vgg19.h5'
    """
    package = Path(__file__).resolve().parents[1]
    places = (package / "weights" / "vgg19.h5", package.parent / "weights" / "vgg19.h5")
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"the bundled VGG19 is neither {places[0]} nor {places[1]}; reinstall jaxnst"
    )


def load_params(path: str | PathLike[str] | None = None, *, input: Input | None = None) -> Params:
    """Load the params of VGG19, ready for `extract_features`, from any file that holds one.

    Formats are recognised by content: Keras' HDF5 in all its layouts, torch files (read without
    torch, and without running anything in them), safetensors, MatConvNet's .mat, and jaxnst's own.
    The network may be a part of another model, or be cut after any layer. docs/weights.md lists
    what is read.

    Args:
        path: the file; None for the bundled VGG19, an 8-bit quantisation of the Oxford weights
            (see weights/README.md).
        input: what the network expects of its input: "caffe" (BGR in 0..255 less the mean, as the
            Oxford weights) or "torchvision" (RGB in [0, 1], less a mean, divided by a deviation).
            Needed only where neither the layout nor the checksum of the file decides it.

    Returns:
        Params: `{"normalize": {"mean": (3,), "std": (3,)}, "conv1_1": {"kernel", "bias"}, …}` in
        float32 up to conv5_4, or as far as the file goes, with kernels HWIO. The preprocessing is
        folded into conv1_1 and `normalize`, so all params take sRGB in [0, 1].

    Raises:
        FileNotFoundError: `path` is not a file.
        ValueError: the file's format is unknown, or it is damaged, not VGG19 or not finite; or
            `input` is needed, or contradicts the file.

    >>> params = load_params()
    >>> params["conv1_1"]["kernel"].shape
    (3, 3, 3, 64)
    """
    source = bundled_weights() if path is None else Path(path)
    if input is not None and input not in INPUT_RULES:
        raise ValueError(f"input must be one of {', '.join(INPUT_RULES)}, not {input!r}")
    params: Params = {}
    # What overflows float32 becomes infinite, which is refused in the end.
    with (
        np.errstate(all="ignore"),
        refusing(source),
        open_container(source) as container,
    ):
        recognised = _vgg19(container)
        rule = _input_rule(source, recognised, input)
        for layer in layers_of(recognised.leaves):
            kernel, bias = (read_leaf(recognised, f"{layer}/{x}") for x in ("kernel", "bias"))
            if layer == "conv1_1":
                kernel = fold_input(kernel, rule.mix)
            # Placed on the device one by one, so that the host never holds a copy of them all.
            params[layer] = {"kernel": jnp.asarray(kernel), "bias": jnp.asarray(bias)}
        normalize = {"mean": np.float32(rule.mean), "std": np.float32(rule.std)}
    params["normalize"] = jax.tree.map(jnp.asarray, normalize)
    check_params(params, str(source))
    return params


def _vgg19(container: Container) -> Recognised:
    """Return the VGG19 in a file, or refuse it."""
    recognised = recognise(container.arrays)
    if recognised is None:
        names = ", ".join(quote(name, 40) for name in list(container.arrays)[:3])
        refuse(
            f"this {container.kind} file has no VGG19 in a known layout; "
            f"the first of its {len(container.arrays)} arrays: {names or 'none'}"
        )
    if recognised.mismatches:
        network = name_network(container.arrays)
        if network not in ("", "VGG19"):
            refuse(f"it must be VGG19, not {network}; `jaxnst weights fetch keras` gets one")
        refuse(f"it is not VGG19: {_describe(recognised.mismatches)}")
    for leaf, array in recognised.leaves.items():
        if not (isinstance(array.dtype, np.dtype) and jnp.issubdtype(array.dtype, jnp.floating)):
            refuse(f"{leaf} must be floating numbers of 16 bits or more, not {array.dtype}")
    return recognised


def _input_rule(source: Path, recognised: Recognised, wanted: Input | None) -> InputRule:
    """Return the rule that the layout or the checksum decides, else the one that is asked for."""
    layout = recognised.layout
    certain = _certain_input(source, recognised)
    if certain is not None and wanted not in (None, certain):
        refuse(
            f"it has the layout {layout.name} and the input rule {certain!r}, "
            f"so input={wanted!r} would give wrong features; leave it out"
        )
    if certain == "own":
        return own_input_rule(recognised)
    name = certain or wanted
    if name is None:
        refuse(
            f"it has the layout {layout.name}, in which two kinds of network are published; "
            'pass input="torchvision" (RGB by mean and deviation: torchvision, timm) or '
            'input="caffe" (BGR in 0..255 less the mean: the Oxford weights)'
        )
    rule = INPUT_RULES[name]
    return rule._replace(mix=rule.mix[::-1]) if layout.rgb else rule


def _certain_input(source: Path, recognised: Recognised) -> str | None:
    if recognised.layout.input is not None:
        return recognised.layout.input
    known = identify(source)
    return known.input if known else None


def _describe(mismatches: Mismatches) -> str:
    """Return expected and found shapes side by side, on one line of readable length."""
    first = [
        f"{name[:40]}: expected {show_shape(expected)}, found {show_shape(found)}"
        for name, (expected, found) in sorted(mismatches.items())[:3]
    ]
    more = len(mismatches) - len(first)
    return "; ".join(first + [f"{more} more"] * bool(more))


def show_shape(shape: Shape | None) -> str:
    """Return a shape as text, and "nothing" for None."""
    return "nothing" if shape is None else quote(shape, 40)


class WeightsFile(NamedTuple):
    """What `inspect_weights` finds out about a weights file."""

    path: Path
    container: str  #: "HDF5", "torch", "safetensors" or "MATLAB"
    num_arrays: int
    layout: str | None  #: the name of its layout; None if it has no VGG19 in a known one
    input: str | None  #: "caffe", "torchvision", "own", or None if `load_params` must be given it
    known: KnownFile | None  #: the published file that it is, by its checksum
    mismatches: Mismatches  #: expected and found shapes that differ, by name
    deepest: str | None  #: the last convolution that it has, such as "conv5_4"


def inspect_weights(path: str | PathLike[str]) -> WeightsFile:
    """Find out what a weights file is, without reading its arrays.

    Raises:
        FileNotFoundError: `path` is not a file.
        ValueError: the file's format is unknown, or it is damaged.

    >>> found = inspect_weights(bundled_weights())
    >>> found.container, found.layout, found.input, found.known.name
    ('HDF5', 'jaxnst', 'own', 'bundled')
    """
    source = Path(path)
    with refusing(source), open_container(source) as (container, arrays):
        found, known = recognise(arrays), identify(source)
        if found is None:
            return WeightsFile(source, container, len(arrays), None, None, known, {}, None)
        certain, layers = _certain_input(source, found), layers_of(found.leaves)
        return WeightsFile(
            *(source, container, len(arrays), found.layout.name, certain, known),
            *(found.mismatches, layers[-1] if layers else None),
        )


def save_params(path: str | PathLike[str], params: Params) -> None:
    """Write params to a file that `load_params` reads back to the bit.

    In HDF5 a kernel of at most 256 different values, such as `quantize_params` makes, takes 8 bits
    a value, any other 32. The file is replaced at once, and only on success.

    Args:
        path: the file; its suffix decides the format: `.safetensors`, or jaxnst's own HDF5 with
            `.h5` or `.hdf5`.
        params: from `load_params`.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the suffix is another one, or params are not a finite VGG19.
        OSError: the file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_params(f"{folder}/vgg19.h5", load_params())
    ...     inspect_weights(f"{folder}/vgg19.h5").layout
    'jaxnst'
    """
    target = Path(path)
    if target.suffix.lower() not in _WRITERS:
        raise ValueError(
            f"{target} has the unknown suffix {target.suffix!r}: use .safetensors or .h5"
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent}: make it first")
    check_params(params)
    arrays = {
        leaf: np.asarray(params[layer][name], np.float32)
        for leaf in up_to_deepest(NORMALIZE_SHAPES | LEAF_SHAPES, params)
        for layer, name in [leaf.split("/")]
    }
    _WRITERS[target.suffix.lower()](target, arrays)


def check_params(params: Params, name: str = "params") -> None:
    """Check that `params` is a VGG19 of the expected keys and shapes, all finite.

    The last layers may be missing.

    Raises:
        ValueError: it is not; the message begins with `name`.

    >>> check_params(load_params())
    >>> check_params({"conv1_1": {"kernel": np.zeros((5, 5, 3, 64))}})
    Traceback (most recent call last):
        ...
    ValueError: params is not VGG19: conv1_1/bias: expected (64,), found nothing; conv1_1/kernel: \
expected (3, 3, 3, 64), found (5, 5, 3, 64); normalize/mean: expected (3,), found nothing; 1 more
    """
    found = {f"{layer}/{leaf}": np.shape(a) for layer, d in params.items() for leaf, a in d.items()}
    expected = up_to_deepest(NORMALIZE_SHAPES | LEAF_SHAPES, params)
    if mismatches := compare_shapes(expected, found):
        raise ValueError(f"{name} is not VGG19: {_describe(mismatches)}")
    for layer, leaves in params.items():
        if not all(np.isfinite(leaf).all() for leaf in leaves.values()):
            raise ValueError(f"{name}: the values of {layer} must be finite, not nan or infinite")
    std = np.asarray(params["normalize"]["std"])
    if not (std > 0).all():
        raise ValueError(f"{name}: normalize/std must be positive, not {std.tolist()}")
