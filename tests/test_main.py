"""The command that is installed, and how it starts."""

import importlib.metadata
import os
import sys

import pytest
from helpers import call

import jaxnst
from jaxnst import __main__ as command


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
    monkeypatch.setattr(command, "main", lambda: 7)
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
