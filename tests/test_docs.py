"""The Python examples of README.md and docs/python.md run, one after another."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import pytest
from shallow import OBJECTIVE

import jaxnst

ROOT = Path(__file__).resolve().parents[1]
DEMO = Path(jaxnst.__file__).parent / "demo"


def blocks(path: Path) -> list[str]:
    """The blocks of Python in a Markdown file, each at its own line, for tracebacks."""
    text = path.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S)
    return ["\n" * text[: m.start(1)].count("\n") + m.group(1) for m in found]


def run(codes: list[str], path: Path) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "example"}
    for code in codes:
        exec(compile(code, str(path), "exec"), names)
    return names


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The presets' default sees one block of the network; `jaxnst demo` is tested with all."""
    config = jaxnst.preset("default").config
    config = dataclasses.replace(config, objective=OBJECTIVE)
    recipe = jaxnst.Recipe(config, jaxnst.LossWeights.ones(OBJECTIVE))
    monkeypatch.setitem(jaxnst.PRESETS, "default", lambda: recipe)


def test_the_guide_runs_from_top_to_bottom() -> None:
    path = ROOT / "docs" / "python.md"
    names = run(blocks(path), path)
    for name in ("image", "losses", "variables"):
        assert all(jax.numpy.isfinite(x).all() for x in jax.tree.leaves(names[name]))
    assert names["losses"].shape == (3,)
    assert names["result"].image.shape == names["content"].shape


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, source in (("photo.jpg", "content.jpg"), ("painting.jpg", "style.jpg")):
        (tmp_path / name).write_bytes((DEMO / source).read_bytes())
    path, codes = ROOT / "README.md", []
    for code in blocks(path):  # the same, but small
        code, sizes = re.subn(r"\bsize=512\b", "size=40", code)
        code, steps = re.subn(r"\bnum_steps=200\b", "num_steps=2", code)
        assert (sizes, steps) == (2, 1), "say here how this block is made small"
        codes.append(code)
    names = run(codes, path)
    assert (tmp_path / "picture.png").is_file()
    assert names["results"].image.shape == (4, *names["content"].shape)
