"""The weights are found in a clone, an editable install, and wheels built either way."""

import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import jaxnst

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
CONVOLUTIONS = [
    f"conv{block}_{i}" for block, n in enumerate((2, 2, 4, 4, 4), 1) for i in range(1, n + 1)
]
LOAD = """
import json, jaxnst
params = jaxnst.load_params()
print(json.dumps({"names": sorted(params), "file": jaxnst.__file__}))
"""


def run(*command, cwd, **environment):
    """Standard output of `command`; on failure, everything it wrote is in the message."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=cwd, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


def check_load(home, cwd, pythonpath=None):
    """In a fresh process away from the clone, jaxnst comes from `home` and finds its weights."""
    found = json.loads(run("-c", LOAD, cwd=cwd, PYTHONPATH=str(pythonpath or home)))
    assert Path(found["file"]).resolve() == (home / "jaxnst" / "__init__.py").resolve()
    assert found["names"] == [*CONVOLUTIONS, "normalize"]


def test_clone(tmp_path):
    check_load(ROOT, tmp_path)


@pytest.mark.slow
def test_editable_install(tmp_path):
    prefix = tmp_path / "prefix"
    pip = ("-m", "pip", "install", "-q", "--no-deps", "--ignore-installed")
    run(*pip, "--prefix", prefix, "--editable", ROOT, cwd=tmp_path)
    (pth,) = prefix.rglob("*jaxnst*.pth")
    # As in a real environment: site-packages first, then the directories that its .pth names.
    check_load(ROOT, tmp_path, os.pathsep.join([str(pth.parent), pth.read_text().strip()]))


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--wheel"], []], ids=["from the clone", "from the sdist"])
def test_wheel(tmp_path, options):
    dist, target = tmp_path / "dist", tmp_path / "target"
    # Without options `build` makes the sdist, and the wheel out of the sdist.
    run("-m", "build", *options, "--outdir", dist, ROOT, cwd=tmp_path)
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert wheel.name.startswith(f"jaxnst-{jaxnst.__version__}-")
    assert {"jaxnst/py.typed", "jaxnst/app/page.html"} <= names
    assert {"jaxnst/weights/vgg19.h5", "jaxnst/weights/README.md"} <= names
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"jaxnst", f"jaxnst-{jaxnst.__version__}.dist-info"}
    for sdist in dist.glob("*.tar.gz"):
        with tarfile.open(sdist) as archive:
            parts = {Path(name).parts[1] for name in archive.getnames()}
        assert {"jaxnst", "tests", "weights", "pyproject.toml", "LICENSE"} <= parts
    run("-m", "pip", "install", "-q", "--no-deps", "--target", target, wheel, cwd=tmp_path)
    check_load(target, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    options = ("--size", "32", "--num-steps", "2")
    run("-m", "jaxnst", "demo", *options, cwd=empty, PYTHONPATH=str(target))
    assert jaxnst.load_image(empty / "demo.png").shape[1] == 32
    for name, given in (("photo.jpg", "content.jpg"), ("painting.jpg", "style.jpg")):
        (empty / name).write_bytes((target / "jaxnst" / "demo" / given).read_bytes())
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)
    example = example.replace("size=512", "size=32").replace("num_steps=200", "num_steps=2")
    run("-c", example, cwd=empty, PYTHONPATH=str(target))
    assert jaxnst.load_image(empty / "picture.png").shape[1] == 32
