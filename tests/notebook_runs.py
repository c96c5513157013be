"""Running a notebook as Jupyter does, in a kernel of this interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]

# In a process of its own: this one turns the warnings of nbclient and zmq into errors.
EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(notebook, timeout=None, kernel_name="this-python").execute()
nbformat.write(notebook, sys.argv[2])
"""


def run_notebook(path: Path, folder: Path, *, seconds: float) -> nbformat.NotebookNode:
    """Run a notebook in an empty folder, which is made in `folder`, and return it with outputs.

    Args:
        path: the notebook.
        folder: where the files of the run are written.
        seconds: the time limit of the whole run.
    """
    # A kernel that is this interpreter, whatever kernels are installed.
    kernel = folder / "jupyter" / "kernels" / "this-python"
    kernel.mkdir(parents=True)
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "this Python",
        "language": "python",
    }
    (kernel / "kernel.json").write_text(json.dumps(spec))
    work = folder / "work"
    work.mkdir()
    inherited = os.environ.get("PYTHONPATH")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT) + (os.pathsep + inherited if inherited else ""),
        "JUPYTER_PATH": str(folder / "jupyter"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "IPYTHONDIR": str(folder / "ipython"),
    }
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(path), str(folder / "run.ipynb")],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    assert done.returncode == 0, done.stderr
    return nbformat.read(folder / "run.ipynb", as_version=4)


def outputs_of(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The outputs of all cells, in order."""
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def pictures_of(notebook: nbformat.NotebookNode) -> list[str]:
    """The pictures among the outputs, as base64."""
    kinds = ("image/png", "image/jpeg")
    data = [output.get("data", {}) for output in outputs_of(notebook)]
    return [bundle[kind] for bundle in data for kind in kinds if kind in bundle]
