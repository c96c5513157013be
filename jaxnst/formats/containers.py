"""The containers of weights: HDF5, safetensors, torch and MATLAB files as named arrays.

No other file of the package knows h5py or safetensors.
"""

import re
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save

from jaxnst.files import replacing
from jaxnst.formats.layouts import Stored
from jaxnst.formats.matlab import read_layers
from jaxnst.formats.refusal import quote, refuse, refusing
from jaxnst.formats.torch_file import is_torch_file, read_tensors

FORMAT = "jaxnst-vgg19"
VERSION = 1
# The suffixes of the codes and the table of 256 values that stand for a kernel, and the kernel's.
CODEBOOKS = (("/codes", "/codebook", "/kernel"), ("_W_q", "_W_table", "_W"))
# What is read at most: names in an HDF5 file and groups in groups, bytes of a chunk of HDF5 and of
# the header of safetensors, characters of an array's name. Real files stay far below.
NAMES, DEPTH, CHUNK_BYTES, HEADER_BYTES, NAME_LENGTH = 2**16, 32, 2**26, 2**22, 1000
# The filters of HDF5 that are undone, in the order in which they are applied.
FILTERS = (h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_FLETCHER32)


@dataclass(frozen=True)
class Lazy:
    """An array in a file, read and decoded when NumPy asks for it."""

    shape: tuple[int, ...]
    dtype: Any  #: of NumPy; the file's own name of a type that NumPy does not have
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

    def named(array: Stored) -> Stored:
        return replace(array, read=partial(read, array)) if isinstance(array, Lazy) else array

    def read(array: Lazy) -> npt.NDArray[Any]:
        with refusing(path, kind):
            return array.read()

    with ExitStack() as stack:
        with refusing(path, kind):
            opened = stack.enter_context(_OPEN[kind](path))
            arrays = _with_kernels({k: x for k, x in opened.items() if len(k) <= NAME_LENGTH})
        yield Container(kind, {name: named(array) for name, array in arrays.items()})


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
        # "format" is not read: HDF5 looks for texts in a heap, for ever if that is damaged.
        if "format" in file.attrs and "version" in file.attrs:
            kept = file.attrs.get_id("version")
            if kept.shape == () and kept.dtype.kind in "iu" and file.attrs["version"] > VERSION:
                refuse("it was written by a newer jaxnst: update jaxnst to read it")
        yield {name: _lazy_dataset(name, dataset) for name, dataset in _datasets(file).items()}


def _datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """Return the datasets by name, within bounds, which HDF5's own walk does not have."""
    datasets, groups, seen, count = {}, [("", 0, file)], set(), 0
    while groups:
        prefix, depth, group = groups.pop()
        place = h5py.h5o.get_info(group.id)
        if (place.fileno, place.addr) in seen:  # a circle of groups
            continue
        seen.add((place.fileno, place.addr))
        count += len(group)
        if count > NAMES or depth > DEPTH:
            refuse(f"it has more than {NAMES} names, or groups more than {DEPTH} deep")
        for name in group:
            # A link out of the file could point to anything on this machine.
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                found = type(link).__name__
                refuse(f"{quote(prefix + name)} must be an array or a group, not a {found}")
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append((f"{prefix}{name}/", depth + 1, item))
            elif isinstance(item, h5py.Dataset):
                datasets[prefix + name] = item
    return datasets


def _lazy_dataset(name: str, dataset: h5py.Dataset) -> Lazy:
    if dataset.external or dataset.is_virtual:
        refuse(f"{quote(name)} must hold its values itself, not in another file")

    def read() -> npt.NDArray[Any]:
        if dataset.chunks:
            _check_chunks(name, dataset)
        return dataset[()]

    try:
        dtype: Any = dataset.dtype
    except (TypeError, ValueError):
        dtype = "a type without a name in NumPy"
    return Lazy(dataset.shape or (), dtype, read)


def _check_chunks(name: str, dataset: h5py.Dataset) -> None:
    """Refuse chunks that HDF5, which has no bound, would unpack to more bytes than they declare."""
    # A chunk may be larger than its array, and is unpacked as a whole.
    most = prod(dataset.chunks) * dataset.dtype.itemsize
    if most > CHUNK_BYTES:
        refuse(f"{quote(name)} has chunks of shape {quote(dataset.chunks)}")
    properties = dataset.id.get_create_plist()
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    if filters != [one for one in FILTERS if one in filters]:
        refuse(f"{quote(name)} must be packed by gzip or not at all, not by filters {filters}")
    for part in dataset.iter_chunks():
        place = tuple(side.start for side in part)
        stored = dataset.id.get_chunk_info_by_coord(place)
        if stored.byte_offset is None:  # all are the fill value
            continue
        size = stored.size
        if h5py.h5z.FILTER_DEFLATE in filters and size <= 2 * most + 100:
            skipped, packed = dataset.id.read_direct_chunk(place)
            if not skipped >> filters.index(h5py.h5z.FILTER_DEFLATE) & 1:
                size = len(zlib.decompressobj().decompress(packed, most + 1))
        if size > most + 4:  # with a checksum
            refuse(f"{quote(name)} has a chunk that unpacks to more than its {most} bytes")


@contextmanager
def _open_safetensors(path: Path) -> Iterator[dict[str, Stored]]:
    with open(path, "rb") as start:
        size = int.from_bytes(start.read(8), "little")
    if size > HEADER_BYTES:
        refuse(f"its header has {size} bytes; at most {HEADER_BYTES} are read")
    with safe_open(path, framework="numpy") as file:
        yield {name: _lazy_tensor(file, name) for name in file.keys()}  # noqa: SIM118


def _lazy_tensor(file: Any, name: str) -> Lazy:
    piece = file.get_slice(name)
    kind = piece.get_dtype()
    types = {"F16": "f2", "BF16": "f4", "F32": "f4", "F64": "f8", "U8": "u1"}
    dtype = np.dtype(types[kind]) if kind in types else kind
    return Lazy(tuple(piece.get_shape()), dtype, lambda: file.get_tensor(name))


_OPEN: dict[str, Callable[[Path], AbstractContextManager[dict[str, Stored]]]] = {
    "HDF5": _open_hdf5,
    "safetensors": _open_safetensors,
    "torch": lambda path: nullcontext(dict(read_tensors(path))),
    "MATLAB": lambda path: nullcontext(dict(read_layers(path))),
}


def _with_kernels(arrays: dict[str, Stored]) -> dict[str, Stored]:
    """Replace codes and codebooks by the kernels that they stand for."""
    out = dict(arrays)
    for suffixes in CODEBOOKS:
        for name in arrays:
            for suffix in suffixes[:2]:
                if name.endswith(suffix):
                    stem = name.removesuffix(suffix)
                    codes, codebook = (arrays.get(stem + suffix) for suffix in suffixes[:2])
                    if codes is None or codebook is None:
                        missing = quote(stem + suffixes[codebook is None])
                        refuse(f"it has {quote(name)}, but no {missing}: it is incomplete")
                    out.pop(name)
                    out[stem + suffixes[2]] = _decoded(codes, codebook, stem)
    return out


def _decoded(codes: Stored, codebook: Stored, stem: str) -> Lazy:
    if codes.dtype != np.uint8 or codebook.shape != (256,):
        refuse(
            f"{quote(stem)} must have uint8 codes and 256 values, not {codes.dtype} and "
            f"{quote(codebook.shape)}"
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
