"""A run's state on disk, and the fingerprint of what it belongs to."""

import hashlib
import shutil
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np

Fingerprint = dict[str, str]


def digest(tree: Any) -> str:
    """SHA-256 of the shapes, types and bytes of all arrays of a tree, and of its structure."""
    hashed = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        hashed.update(f"{array.shape}{array.dtype}".encode())
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()


def has_checkpoint(folder: str | PathLike[str]) -> bool:
    """Whether `restore` finds anything to go on from."""
    return bool(_steps(Path(folder)))


def save(
    folder: str | PathLike[str], step: int, tree: dict[str, Any], fingerprint: Fingerprint
) -> None:
    """Save a dict of arrays, numbers, lists and dicts; the last two saves are kept.

    A save that is cut off, even by SIGKILL, leaves the earlier ones as they were.

    Args:
        folder: made if it is not there.
        step: larger than that of any earlier save.
        tree: what to save.
        fingerprint: what the state belongs to, each part under the name that a user knows it by.
    """
    import orbax.checkpoint as ocp  # takes seconds, and short runs never save

    arrays = jax.tree.map(np.asarray, tree)
    with _manager(folder) as manager:
        manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays), fingerprint=ocp.args.JsonSave(fingerprint)
            ),
        )


def restore(folder: str | PathLike[str], fingerprint: Fingerprint) -> dict[str, Any]:
    """The newest state in a folder.

    Raises:
        ValueError: there is none, it cannot be read, or it belongs to something else, whose
            differing parts are named.
    """
    import orbax.checkpoint as ocp

    if not has_checkpoint(folder):
        raise ValueError(f"{str(folder)!r} holds no state of a run to go on from")
    with _manager(folder) as manager:
        try:
            found = manager.restore(
                manager.latest_step(),
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(), fingerprint=ocp.args.JsonRestore()
                ),
            )
        except Exception as error:
            raise ValueError(f"{str(folder)!r} cannot be read: {error}") from error
    saved = found.fingerprint
    differ = [k for k in fingerprint | saved if fingerprint.get(k) != saved.get(k)]
    if differ:
        raise ValueError(
            f"{str(folder)!r} holds the state of a run with other {' and '.join(sorted(differ))}"
        )
    state: dict[str, Any] = found.state
    return state


def remove(folder: str | PathLike[str]) -> None:
    """Remove a folder of states, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)


def _steps(folder: Path) -> list[int]:
    # A save that was cut off has a name that is no number.
    return [int(p.name) for p in folder.glob("*") if p.is_dir() and p.name.isdecimal()]


def _manager(folder: str | PathLike[str]) -> Any:
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(
        max_to_keep=2, create=True, enable_async_checkpointing=False
    )
    return ocp.CheckpointManager(Path(folder).absolute(), options=options)
