"""A run's state on disk, and the fingerprint of what it belongs to."""

import hashlib
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import jax
import numpy as np

Fingerprint = dict[str, str]

_log = logging.getLogger(__name__)


def digest(tree: Any) -> str:
    """SHA-256 of the shapes, types and bytes of all arrays of a tree, and of its structure."""
    hashed = hashlib.sha256(str(jax.tree.structure(tree)).encode())
    for leaf in jax.tree.leaves(tree):
        array = np.asarray(leaf)
        hashed.update(f"{array.shape}{array.dtype}".encode())
        # As bytes, since bfloat16 is no type that buffers know.
        hashed.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
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
        step: any state of this step or a later one is replaced.
        tree: what to save.
        fingerprint: what the state belongs to, each part under the name that a user knows it by.

    Raises:
        OSError: it cannot be written, say on a full disk.
    """
    import orbax.checkpoint as ocp  # takes seconds, and short runs never save

    folder = Path(folder)
    arrays = jax.tree.map(np.asarray, tree)
    about = {"fingerprint": fingerprint, "digest": digest(arrays)}
    _remove_unfinished(folder)
    try:
        for later in _steps(folder):
            if later >= step:  # damaged, if the run went on from an earlier one
                shutil.rmtree(folder / str(later))
        with _manager(folder) as manager:
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(about)
                ),
            )
    except Exception as error:  # of many kinds
        _remove_unfinished(folder)  # but for what threads that are left over still write
        raise OSError(f"{str(folder)!r} cannot be written to: {_reason(error)}") from error


def restore(folder: str | PathLike[str], fingerprint: Fingerprint) -> dict[str, Any]:
    """The newest state in a folder, or the one before it if the newest is damaged.

    Raises:
        ValueError: there is none, none can be read, or it belongs to something else, whose
            differing parts are named.
    """
    import orbax.checkpoint as ocp

    folder, reasons = Path(folder), []
    args = ocp.args.Composite(state=ocp.args.StandardRestore(), about=ocp.args.JsonRestore())
    for step in sorted(_steps(folder), reverse=True):
        try:
            with _manager(folder, read_only=True) as manager:
                found = manager.restore(step, args=args)
            state, about = dict(found.state), found.about
            if digest(state) != about["digest"]:
                raise ValueError("its checksum is wrong")
            break
        except Exception as error:  # of many kinds
            reasons.append(f"state {step} in {str(folder)!r} cannot be read: {_reason(error)}")
    else:
        raise ValueError(
            reasons[0] if reasons else f"{str(folder)!r} holds no state of a run to go on from"
        )
    for reason in reasons:
        _log.warning("%s; going on from an earlier one", reason)
    saved = about["fingerprint"]
    differ = [k for k in fingerprint | saved if fingerprint.get(k) != saved.get(k)]
    if differ:
        raise ValueError(
            f"{str(folder)!r} holds the state of a run with other {' and '.join(sorted(differ))}"
        )
    return state


def remove(folder: str | PathLike[str]) -> None:
    """Remove a folder of states, if it is there.

    Its name goes first, so that no half of a state is found if this is cut off.
    """
    folder = Path(folder)
    doomed = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    with suppress(FileNotFoundError):
        folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def _steps(folder: Path) -> list[int]:
    # A save that was cut off has a name that is no number, see below.
    return [int(p.name) for p in folder.glob("*") if p.is_dir() and p.name.isdecimal()]


def _remove_unfinished(folder: Path) -> None:
    """Remove what saves that failed or were cut off have left, which only takes up room."""
    for path in folder.glob("*"):
        if not path.name.isdecimal():
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _manager(folder: Path, **options: Any) -> Iterator[Any]:
    """Orbax's manager. What it raises it logs too, tracebacks and all, hence without its log."""
    import orbax.checkpoint as ocp

    _ignore_abandoned_futures()
    logger = logging.getLogger("absl")
    disabled, logger.disabled = logger.disabled, True
    try:
        with ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=2, enable_async_checkpointing=False, **options
            ),
        ) as manager:
            yield manager
    finally:
        logger.disabled = disabled


def _reason(error: Exception) -> str:
    """The end of a message of TensorStore, which names each layer on the way, or all of another."""
    message = re.sub(r" \[\w+='.*", "", " ".join(str(error).split()))
    return message.rpartition(": ")[2] if re.match("[A-Z_]+: ", message) else message


@cache
def _ignore_abandoned_futures() -> None:
    """Once one array cannot be read or written, the others complain to nobody; let them."""
    hook = sys.unraisablehook

    def ignore(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    sys.unraisablehook = ignore
