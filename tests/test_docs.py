"""The Python examples of README.md and of all pages in docs/ run, each page from top to bottom.

A block marked "python notest: REASON" is left out.
"""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from shallow import OBJECTIVE, STYLE
from torch_writer import as_oxford, torch_state, write_zip

import jaxnst
import jaxnst.texture

ROOT = Path(__file__).resolve().parents[1]
DEMO = Path(jaxnst.__file__).parent / "demo"
START = ROOT / "docs" / "index.md"
#: Pages that stand alone; all others go on from the start page.
ALONE = [ROOT / "README.md", START, ROOT / "docs" / "python.md", ROOT / "docs" / "devices.md"]
#: The files that the examples read.
PHOTOS = ("photo.jpg",)
STYLES = ("painting.jpg", "sky.jpg", "ground.jpg", "bricks.jpg", "coarse.jpg", "fine.jpg")
MASKS = ("up.png", "down.png", "face.png")


def blocks(path: Path) -> list[str]:
    """The blocks of Python in a Markdown file, made small, each at its own line for tracebacks."""
    text = path.read_text(encoding="utf-8")
    marked = re.findall(r"^```python (?!notest: \w).*", text, re.M)
    assert not marked, f"say why {marked} are not run"
    found = re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S)
    codes = ["\n" * text[: m.start(1)].count("\n") + m.group(1) for m in found]
    for pattern, small in (
        (r"\bsize=\d+", "size=32"),
        (r"\bshape=\(\d+, \d+\)", "shape=(32, 32)"),
        (r"\bnum_steps=\d+", "num_steps=2"),
    ):
        codes = [re.sub(pattern, small, code) for code in codes]
    return codes


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [path for path in PAGES if "```python" in path.read_text(encoding="utf-8")]
#: Pages whose examples compile programs of their own, which takes seconds.
SLOW = {"colours", "kept", "mixed", "python", "regions", "statistics", "textures"}


def as_parameter(path: Path) -> Any:
    marks = [pytest.mark.slow] if path.stem in SLOW else []
    return pytest.param(path, id=str(path.relative_to(ROOT)), marks=marks)


def run(path: Path, names: dict[str, Any]) -> dict[str, Any]:
    for code in blocks(path):
        exec(compile(code, str(path), "exec"), names)
    return names


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The names after the start page, in a folder with the files that the examples read.

    Presets see one block of the network and make two evaluations; `jaxnst demo` is tested with all.
    """
    config = replace(jaxnst.preset("default").config, objective=OBJECTIVE, num_steps=2)
    recipe = jaxnst.Recipe(config, jaxnst.LossWeights.ones(OBJECTIVE))
    of_style = replace(config, objective=jaxnst.Objective({"style": STYLE}))
    texture = jaxnst.Recipe(of_style, jaxnst.LossWeights.ones(of_style.objective))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(tmp_path_factory.mktemp("examples"))
        monkeypatch.setitem(jaxnst.PRESETS, "default", lambda: recipe)
        monkeypatch.setitem(jaxnst.PRESETS, "pastiche", lambda: recipe)
        monkeypatch.setattr(jaxnst.texture, "texture_recipe", lambda: texture)
        monkeypatch.setattr(jaxnst.texture, "mix_recipe", lambda: texture)
        for name in (*PHOTOS, *STYLES):
            source = DEMO / ("content.jpg" if name in PHOTOS else "style.jpg")
            Path(name).write_bytes(source.read_bytes())
        shape = jaxnst.load_image(DEMO / "content.jpg").shape
        for name in MASKS:
            jaxnst.save_image(name, np.broadcast_to(np.linspace(0, 1, shape[1])[:, None], shape))
        write_zip(Path("vgg19.pth"), torch_state(as_oxford(jaxnst.load_params()), count=2))
        yield run(START, {"__name__": "example"})


@pytest.mark.parametrize("path", [as_parameter(path) for path in PAGES])
def test_the_examples_of_a_page_run(path: Path, start: dict[str, Any]) -> None:
    names = {"__name__": "example"} if path in ALONE else dict(start)
    names = start if path == START else run(path, names)
    results = [names[name] for name in ("result", "results") if name in names]
    assert results and all(jax.numpy.isfinite(result.image).all() for result in results)
    if path.name == "python.md":
        for name in ("losses", "variables"):
            assert all(jax.numpy.isfinite(x).all() for x in jax.tree.leaves(names[name]))
        assert names["losses"].shape == (3,)
        assert names["result"].image.shape == names["content"].shape
