"""VGG19 files become Flax params. The only file that knows h5py."""

from os import PathLike
from pathlib import Path
from typing import Any

import h5py
import jax
import jax.numpy as jnp
import numpy as np

from jaxnst.vgg import CONV_SHAPES, Params

FORMAT = "jaxnst-vgg19"


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


def load_params(path: str | PathLike[str] | None = None) -> Params:
    """The params of VGG19, ready for `extract_features`.

    Args:
        path: an HDF5 file of jaxnst; None for the bundled VGG19, an 8-bit quantisation of the
            Oxford weights (see weights/README.md).

    Returns:
        `{"normalize": {"mean": (3,), "std": (3,)}, "conv1_1": {"kernel", "bias"}, …, "conv5_4"}`
        with kernels HWIO in float32. What the network wants of its input is folded into conv1_1
        and `normalize`, so all params take sRGB in [0, 1].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no HDF5 file of jaxnst, or not VGG19, or not finite.
    """
    source = bundled_weights() if path is None else Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"there is no weights file {source}")
    try:
        with h5py.File(source, "r") as file:
            if file.attrs.get("format") != FORMAT:
                raise ValueError(f"{source} is an HDF5 file, but not one of jaxnst")
            params = {layer: _read_layer(file, layer) for layer in CONV_SHAPES}
            params["normalize"] = {k: _read(file, f"normalize/{k}") for k in ("mean", "std")}
    except OSError as error:
        raise ValueError(f"{source} is not a readable HDF5 file ({error})") from error
    check_params(params, str(source))
    return jax.tree.map(jnp.asarray, params)


def _read(file: h5py.File, name: str) -> np.ndarray[Any, Any]:
    if name not in file:
        raise ValueError(f"{file.filename} has no {name}")
    return np.asarray(file[name][()])


def _read_layer(file: h5py.File, layer: str) -> dict[str, np.ndarray[Any, Any]]:
    codes, codebook = _read(file, f"{layer}/codes"), _read(file, f"{layer}/codebook")
    if codes.dtype != np.uint8 or codebook.shape != (256,):
        raise ValueError(f"{file.filename}: {layer} wants uint8 codes and a codebook of 256 values")
    return {"kernel": codebook[codes], "bias": _read(file, f"{layer}/bias")}


def check_params(params: Params, name: str = "params") -> None:
    """Raise ValueError unless `params` is a VGG19 of the expected keys and shapes, all finite."""
    expected: dict[str, tuple[int, ...]] = {"normalize/mean": (3,), "normalize/std": (3,)}
    for layer, shape in CONV_SHAPES.items():
        expected |= {f"{layer}/kernel": shape, f"{layer}/bias": shape[-1:]}
    found = {f"{layer}/{leaf}": np.shape(a) for layer, d in params.items() for leaf, a in d.items()}
    if found != expected:
        wrong = sorted(
            f"{key}: expected {expected.get(key, 'nothing')}, found {found.get(key, 'nothing')}"
            for key in expected.keys() | found.keys()
            if expected.get(key) != found.get(key)
        )
        raise ValueError(f"{name} is not VGG19: " + "; ".join(wrong))
    for layer, leaves in params.items():
        if not all(np.isfinite(leaf).all() for leaf in leaves.values()):
            raise ValueError(f"{name}: {layer} holds values that are not finite")
