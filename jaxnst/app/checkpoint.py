"""Save and restore the state of a run, and compute digests of arrays."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

Fingerprint = dict[str, str]
Arrays = dict[str, np.ndarray[Any, Any]]

_log = logging.getLogger(__name__)

_STATE = re.compile(r"state-(\d+)\.safetensors")
_UNFINISHED = "unfinished.safetensors"


def digest(tree: Any) -> str:
    """Return the SHA-256 of a tree: of its structure and its arrays' shapes, types and bytes."""
    hashed = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        hashed.update(f"{array.shape}{array.dtype}".encode())
        hashed.update(_bytes(array).data)
    return hashed.hexdigest()


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    # bfloat16 has neither a buffer nor a name that every reader of safetensors knows.
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def has_checkpoint(folder: Path) -> bool:
    """Return whether a folder holds a state for `restore`."""
    return bool(_states(folder))


def save(folder: Path, step: int, arrays: Mapping[str, Any], fingerprint: Fingerprint) -> None:
    """Save named arrays as a state, and keep the last two states of the folder.

    If the process is killed during a save, earlier states stay as they were.

    Args:
        folder: the folder, which is made if it does not exist.
        step: number of the state; states of this step and later ones are removed.
        arrays: the arrays to save.
        fingerprint: describes the run to which the state belongs, by names that a user knows.

    Raises:
        OSError: the folder cannot be written to, for example on a full disk.
    """
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    about = json.dumps(
        {
            "fingerprint": fingerprint,
            "arrays": {name: [str(a.dtype), list(a.shape)] for name, a in arrays.items()},
        }
    )
    metadata = {"about": about, "digest": _digest_of_state(about, arrays)}
    unfinished = folder / _UNFINISHED
    try:
        folder.mkdir(exist_ok=True)
        for later, path in _states(folder).items():
            if later >= step:  # damaged, since the run continued from an earlier one
                path.unlink()
        _write(unfinished, arrays, metadata)
        os.replace(unfinished, folder / f"state-{step}.safetensors")
        for _, path in sorted(_states(folder).items())[:-2]:
            path.unlink()
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(f"{str(folder)!r} cannot be written to: {_reason(error)}") from error


def restore(folder: Path, fingerprint: Fingerprint) -> Arrays:
    """Return the newest state of a folder, or the one before it if the newest is damaged.

    Raises:
        ValueError: there is no state, no state can be read, or it belongs to another run; the
            message then names the parts that differ.
    """
    reasons = []
    for step, path in sorted(_states(folder).items(), reverse=True):
        try:
            arrays, saved = _read(path)
            break
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            reasons.append(f"state {step} in {str(folder)!r} cannot be read: {_reason(error)}")
    else:
        raise ValueError(
            f"{reasons[0]}; start again with --restart"
            if reasons
            else f"{str(folder)!r} holds no state of a run to go on from: leave --resume out"
        )
    for reason in reasons:
        _log.warning("%s; going on from an earlier one", reason)
    differ = [k for k in fingerprint | saved if fingerprint.get(k) != saved.get(k)]
    if differ:
        raise ValueError(
            f"{str(folder)!r} holds the state of a run with other {' and '.join(sorted(differ))}: "
            "give the same, or start again with --restart"
        )
    return arrays


def remove(folder: Path) -> None:
    """Remove all states of a folder, the newest first, and no other file."""
    for _, path in sorted(_states(folder).items(), reverse=True):
        path.unlink(missing_ok=True)
    (folder / _UNFINISHED).unlink(missing_ok=True)


def _states(folder: Path) -> dict[int, Path]:
    """Return the files of complete states by their steps."""
    found = {path: _STATE.fullmatch(path.name) for path in folder.glob("state-*")}
    return {int(match[1]): path for path, match in found.items() if match}


def _write(path: Path, arrays: Arrays, metadata: dict[str, str]) -> None:
    """Write a safetensors file.

    The library's `save` makes two copies of all arrays, and a state may take half of the memory.
    Its `save_file` would leave a file with a random name behind if the process is killed.
    """
    tensors = {name: _bytes(array) for name, array in arrays.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.size
        header[name] = {"dtype": "U8", "shape": [tensor.size], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that the arrays are aligned
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.data)


def _read(path: Path) -> tuple[Arrays, Fingerprint]:
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        about = json.loads(metadata["about"])
        arrays = {
            name: file.get_tensor(name).view(jnp.dtype(dtype)).reshape(shape)
            for name, (dtype, shape) in about["arrays"].items()
        }
    if _digest_of_state(metadata["about"], arrays) != metadata["digest"]:
        raise ValueError("its checksum is wrong")
    return arrays, about["fingerprint"]


def _digest_of_state(about: str, arrays: Arrays) -> str:
    return digest([np.frombuffer(about.encode(), np.uint8), *arrays.values()])


def _reason(error: Exception) -> str:
    """Return an error's message on one line."""
    return " ".join(str(getattr(error, "strerror", None) or error).split())
