"""The containers of weights: HDF5, safetensors, torch and MATLAB files as named arrays.

No other file of the package knows h5py, safetensors or MATLAB's format.
"""

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from jaxnst.files import replacing
from jaxnst.formats.layouts import Stored
from jaxnst.formats.torch_file import is_torch_file, read_tensors

FORMAT = "jaxnst-vgg19"
VERSION = 1
# The suffixes of the codes and the table of 256 values that stand for a kernel, and the kernel's.
CODEBOOKS = (("/codes", "/codebook", "/kernel"), ("_W_q", "_W_table", "_W"))


@dataclass(frozen=True)
class Lazy:
    """An array in a file, read and decoded when NumPy asks for it."""

    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], npt.NDArray[Any]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.asarray(self.read(), dtype)


class Container(NamedTuple):
    """A weights file while it is open."""

    kind: str  #: "HDF5", "safetensors", "MATLAB" or "torch"
    arrays: dict[str, Stored]


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """Open a weights file, whose kind is recognised by its content. Arrays are read when used.

    Raises:
        FileNotFoundError: `path` is not a file.
        ValueError: it is of another kind, or damaged, which may show only while arrays are read.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no weights file {path}")
    kind = _kind(path)
    if kind is None:
        hint = ""
        if zipfile.is_zipfile(path):
            hint = "; it is a zip archive: extract the file in it (.keras has model.weights.h5)"
        raise ValueError(
            f"{path} must be a weights file: HDF5, torch, safetensors or MATLAB 5{hint}"
        )
    try:
        with _OPEN[kind](path) as arrays:
            yield Container(kind, _with_kernels(arrays, path))
    except (OSError, RuntimeError, KeyError, SystemError, SafetensorError) as error:
        # (h5py raises SystemError for damage that it meets while it walks the file.)
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a readable {kind} file ({reason})") from error


def _kind(path: Path) -> str | None:
    with open(path, "rb") as file:
        start = file.read(20)
    if h5py.is_hdf5(path) or start.startswith(b"\x89HDF"):
        return "HDF5"
    if start.startswith(b"MATLAB 5.0 MAT-file"):
        return "MATLAB"
    if is_torch_file(path):
        return "torch"
    if re.match(rb".{8}\{", start, re.DOTALL):  # the length of a header, and a JSON object
        return "safetensors"
    return None


@contextmanager
def _open_hdf5(path: Path) -> Iterator[dict[str, Stored]]:
    with h5py.File(path, "r") as file:
        if file.attrs.get("format") == FORMAT and not file.attrs.get("version", 0) <= VERSION:
            raise ValueError(f"{path} was written by a newer jaxnst: update jaxnst to read it")

        # A link out of the file could point to anything on this machine.
        links: dict[str, object] = {}
        file.visititems_links(links.__setitem__)
        for name, link in links.items():
            if not isinstance(link, h5py.HardLink):
                raise ValueError(
                    f"{path}: {name!r} must be an array or a group, not a {type(link).__name__}"
                )

        items: dict[str, h5py.HLObject] = {}
        file.visititems(items.__setitem__)
        datasets = {name: x for name, x in items.items() if isinstance(x, h5py.Dataset)}
        for name, dataset in datasets.items():
            if dataset.external or dataset.is_virtual:
                raise ValueError(
                    f"{path}: {name!r} must hold its values itself, not in another file"
                )
        yield {
            name: Lazy(dataset.shape or (), dataset.dtype, partial(dataset.__getitem__, ()))
            for name, dataset in datasets.items()
        }


@contextmanager
def _open_safetensors(path: Path) -> Iterator[dict[str, Stored]]:
    with safe_open(path, framework="numpy") as file:
        yield {name: _lazy_tensor(file, name) for name in file.keys()}  # noqa: SIM118


def _lazy_tensor(file: Any, name: str) -> Lazy:
    piece = file.get_slice(name)
    kind = piece.get_dtype()  # F16, BF16, F32, F64; I8 ..., U8 ..., BOOL
    dtype = np.dtype(np.float32 if "F" in kind else np.int64)  # only this difference matters
    return Lazy(tuple(piece.get_shape()), dtype, lambda: file.get_tensor(name))


@contextmanager
def _open_matlab(path: Path) -> Iterator[dict[str, Stored]]:
    try:
        from scipy.io import loadmat
    except ImportError:
        raise ValueError(f"{path}: MATLAB files need scipy; pip install 'jaxnst[matlab]'") from None
    try:
        layers = loadmat(
            path, variable_names=["layers"], squeeze_me=True, struct_as_record=False
        ).get("layers", [])
        arrays = {}
        for layer in np.atleast_1d(layers):
            if hasattr(layer, "weights"):  # since MatConvNet 1.0-beta16
                pair = layer.weights
            else:
                pair = (getattr(layer, "filters", None), getattr(layer, "biases", None))
            if len(pair) == 2 and isinstance(pair[0], np.ndarray):
                for name, array in zip(("kernel", "bias"), pair, strict=True):
                    arrays[f"layers/{layer.name}/{name}"] = array
    except Exception as error:  # a damaged file can make its reader raise anything
        raise OSError(f"{type(error).__name__}: {error}") from error
    yield arrays


_OPEN: dict[str, Callable[[Path], AbstractContextManager[dict[str, Stored]]]] = {
    "HDF5": _open_hdf5,
    "safetensors": _open_safetensors,
    "torch": lambda path: nullcontext(dict(read_tensors(path))),
    "MATLAB": _open_matlab,
}


def _with_kernels(arrays: dict[str, Stored], path: Path) -> dict[str, Stored]:
    """Replace codes and codebooks by the kernels that they stand for."""
    out = dict(arrays)
    for suffixes in CODEBOOKS:
        for name in arrays:
            for suffix in suffixes[:2]:
                if name.endswith(suffix):
                    stem = name.removesuffix(suffix)
                    codes, codebook = (arrays.get(stem + suffix) for suffix in suffixes[:2])
                    if codes is None or codebook is None:
                        missing = stem + suffixes[codebook is None]
                        raise ValueError(f"{path} has {name}, but no {missing}: it is incomplete")
                    out.pop(name)
                    out[stem + suffixes[2]] = _decoded(codes, codebook, f"{path}: {stem}")
    return out


def _decoded(codes: Stored, codebook: Stored, name: str) -> Lazy:
    if codes.dtype != np.uint8 or codebook.shape != (256,):
        raise ValueError(
            f"{name} must have uint8 codes and 256 values, not {codes.dtype} and {codebook.shape}"
        )
    return Lazy(codes.shape, codebook.dtype, lambda: np.asarray(codebook)[np.asarray(codes)])


def write_hdf5(path: Path, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write arrays to an HDF5 file in jaxnst's own layout.

    A kernel of at most 256 different values is stored as codes and a codebook, in a quarter of the
    size. The file has no time stamps, so the same arrays give the same bytes.
    """
    with (
        replacing(path) as beside,
        h5py.File(beside, "w", libver=("earliest", "v108"), track_order=True) as file,
    ):
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        for name, array in arrays.items():
            if name.endswith("/kernel") and (coded := _encoded(array)) is not None:
                stem = name.removesuffix("/kernel")
                file[f"{stem}/codes"], file[f"{stem}/codebook"] = coded
            else:
                file[name] = array


def _encoded(
    kernel: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]] | None:
    if np.unique(kernel.ravel()[:4096]).size > 256:  # a quick answer for most kernels
        return None
    values = np.unique(kernel)
    if values.size > 256:
        return None
    codebook = np.concatenate([values, np.repeat(values[-1:], 256 - values.size)])
    return np.searchsorted(values, kernel).astype(np.uint8), codebook


def write_safetensors(path: Path, arrays: Mapping[str, npt.NDArray[np.float32]]) -> None:
    """Write arrays to a safetensors file in jaxnst's own layout."""
    content = save(dict(arrays), metadata={"format": FORMAT})
    with replacing(path) as beside:
        beside.write_bytes(content)
