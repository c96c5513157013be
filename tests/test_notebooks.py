"""Every notebook is a pair of files with the same cells, kept with its outputs, and runs."""

from pathlib import Path

import jupytext
import nbformat
import pytest
from notebook_runs import ROOT, outputs_of, pictures_of, run_notebook

FOLDER = ROOT / "notebooks"
SOURCES, RUN = (sorted(path.stem for path in FOLDER.glob(f"*.{s}")) for s in ("py", "ipynb"))
HEADER = """\
# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---
"""


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def test_there_are_notebooks() -> None:
    assert "01_quickstart" in RUN


@pytest.mark.parametrize("name", sorted({*SOURCES, *RUN}))
def test_both_files_have_the_same_cells(name: str) -> None:
    assert name in SOURCES and name in RUN, "a notebook is a pair: see CONTRIBUTING.md"
    source = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert source.startswith(HEADER)
    cells = [
        [(cell.cell_type, cell.source) for cell in notebook.cells]
        for notebook in (jupytext.reads(source, fmt="py:percent"), read(name))
    ]
    assert cells[0] == cells[1], f"run notebooks/{name}.py again: see CONTRIBUTING.md"


@pytest.mark.parametrize("name", RUN)
def test_the_outputs_are_those_of_one_run_without_errors(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == [*range(1, len(code) + 1)]
    outputs = outputs_of(notebook)
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    assert pictures_of(notebook)


@pytest.mark.parametrize("name", RUN)
def test_a_notebook_is_small(name: str) -> None:
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 1_500_000


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_a_notebook_runs_and_shows_a_picture(name: str, tmp_path: Path) -> None:
    # On two cores that do nothing else it takes at most 240 seconds. A busy machine needs more.
    notebook = run_notebook(FOLDER / f"{name}.ipynb", tmp_path, seconds=1200)
    assert pictures_of(notebook)
    assert not [output for output in outputs_of(notebook) if output.output_type == "error"]
