"""Compiled programs kept between runs, in the user's cache."""

import os
import warnings
from pathlib import Path
from typing import Any

import jax

from jaxnst.formats import cache_dir


def keep_compiled_programs() -> None:
    """Keep compiled programs, unless JAX has a setting of its own or there is no place for them.

    A cache is never needed, so nothing about it ends or disturbs a run.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    try:
        folder = cache_dir() / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f"probe-{os.getpid()}"
        probe.write_bytes(b"probe")
        probe.unlink()
        os.listdir(folder)
    except OSError:  # read-only, full, or no home folder
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    _empty_when_damaged(folder)


def _empty_when_damaged(folder: Path) -> None:
    """Empty JAX's cache when it cannot be used, as after a process was killed while writing to it.

    JAX only warns of a program that it cannot read, each time again, and never replaces it.
    """
    show = warnings.showwarning

    def empty(message: Warning | str, *args: Any, **options: Any) -> None:
        if "persistent compilation cache" not in str(message):
            return show(message, *args, **options)
        for path in folder.glob("*"):
            if path.is_file():
                path.unlink(missing_ok=True)

    warnings.showwarning = empty
