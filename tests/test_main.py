"""The command that is installed, and how it starts."""

import importlib.metadata
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import call, environment

import jaxnst
from jaxnst import __main__ as command
from jaxnst.app import cli


def test_version_and_the_installed_command() -> None:
    assert call("--version") == (0, f"jaxnst {jaxnst.__version__}\n", "")
    scripts = importlib.metadata.entry_points(group="console_scripts", name="jaxnst")
    assert all(script.load() is command.start for script in scripts)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not have them")
@pytest.mark.parametrize("tunables", ["", "glibc.malloc.perturb=1"])
def test_a_job_starts_again_in_large_pages_but_once(
    tunables: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[str, list[str], str]] = []

    def execve(path: str, argv: list[str], env: dict[str, str]) -> None:
        started.append((path, argv, env["GLIBC_TUNABLES"]))

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(cli, "main", lambda: 7)
    monkeypatch.setenv("GLIBC_TUNABLES", tunables)
    for words in (["--version"], ["weights", "list"], []):
        monkeypatch.setattr(sys, "argv", ["jaxnst", *words])
        assert command.start() == 7
    assert not started
    monkeypatch.setattr(sys, "argv", ["jaxnst", "demo"])
    assert command.start() == 7
    [(path, argv, asked)] = started
    assert (path, argv) == (sys.executable, sys.orig_argv)
    assert asked.split(":") == [*filter(None, [tunables]), "glibc.malloc.hugetlb=1"]
    monkeypatch.setenv("GLIBC_TUNABLES", asked)
    assert command.start() == 7
    assert len(started) == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("word", ["weights", "demo"])  # of which one starts again
def test_a_signal_while_jax_is_imported_ends_the_command_in_silence(
    tmp_path: Path, number: int, status: int, word: str
) -> None:
    code = f"import os, time; print('once'); os.kill(os.getpid(), {int(number)}); time.sleep(9)"
    (tmp_path / "jax.py").write_text(code)
    variables = environment()
    variables["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{variables['PYTHONPATH']}"
    done = subprocess.run(
        [sys.executable, "-u", "-m", "jaxnst", word], env=variables, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (status, "once\n", "")


def test_ctrl_c_before_the_command_is_known_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def main() -> int:
        signal.raise_signal(signal.SIGINT)
        return 0

    monkeypatch.setattr(cli, "main", main)
    monkeypatch.setattr(sys, "argv", ["jaxnst", "--version"])
    assert command.start() == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
