"""What tests of several commands share: calling one, and reading the folder of a job."""

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnst
from jaxnst.app import cli


def environment(**more: str) -> dict[str, str]:
    """Variables for a process that runs this package."""
    return os.environ | {"PYTHONPATH": str(Path(jaxnst.__file__).parents[1])} | more


def on_devices(count: int, script: str) -> dict[str, Any]:
    """What a script writes into its dict `out`, in a process whose CPU is `count` devices."""
    flags = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={count}"
    script = "import json, sys\nimport jax, numpy as np\nout = {}\n" + script
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script + "\njson.dump(out, sys.stdout)"],
        env=environment(XLA_FLAGS=flags, JAX_PLATFORMS="cpu"),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def normal(*shape: int, seed: int = 0, dtype: Any = jnp.float32) -> jax.Array:
    """Normal noise by NumPy: JAX would compile its own for a second at each shape."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def uniform(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> jax.Array:
    """Uniform noise by NumPy."""
    return jnp.asarray(np.random.default_rng(seed).uniform(low, high, shape), jnp.float32)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port: int = found.getsockname()[1]
        return port


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """Let JAX use float64. `jax.enable_x64` is not in all versions."""
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


class Outcome(NamedTuple):
    status: int
    out: str
    err: str


def call(*words: object) -> Outcome:
    """The command line within this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status: Any = cli.main([str(word) for word in words])
        except SystemExit as error:
            status = error.code
    return Outcome(status, out.getvalue(), err.getvalue())


def check_refused(outcome: Outcome, *parts: str) -> None:
    """One line on stderr with all `parts` and exit status 2."""
    assert (outcome.status, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == 1 and outcome.err.startswith("jaxnst")
    assert all(part in outcome.err for part in parts)


def kept(folder: Path | str = "out") -> dict[str, tuple[int, bytes]]:
    """When each picture of a folder was written, and its bytes."""
    paths = [path for path in sorted(Path(folder).rglob("*")) if path.suffix in (".png", ".webp")]
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in paths
    }


def contents(pictures: dict[str, tuple[int, bytes]]) -> dict[str, bytes]:
    """Of what `kept` returns, the bytes alone."""
    return {name: data for name, (_, data) in pictures.items()}


def manifest(folder: Path | str = "out") -> dict[str, Any]:
    """The entries of a job whose processes are done, by output."""
    assert not list(Path(folder).glob("manifest-*"))
    lines = Path(folder, "manifest.jsonl").read_text().splitlines()
    entries = {entry["output"]: entry for entry in map(json.loads, lines)}
    assert len(entries) == len(lines)
    return entries


def send_signals(
    patch: pytest.MonkeyPatch, job: Any, stop: int, *numbers: signal.Signals
) -> list[Any]:
    """Let signals come with the `stop`th record of a job; return the records, as they come.

    Args:
        patch: undoes it.
        job: `SweepJob` or `BatchJob`.
        stop: from 1.
        *numbers: the signals.
    """
    make, records = job.make, []

    def watched(self: Any, is_done: Any, callback: Callable[[Any], object], stopped: Any) -> Any:
        def report(progress: Any) -> object:
            records.append(progress)
            if len(records) == stop:
                for number in numbers:
                    signal.raise_signal(number)
            return callback(progress)

        return make(self, is_done, report, stopped)

    patch.setattr(job, "make", watched)
    return records


def compiled_text(function: Callable[..., Any], *arguments: Any) -> str:
    """Return the operations of the program that XLA makes of a function."""
    return jax.jit(function).lower(*arguments).compile().as_text()
