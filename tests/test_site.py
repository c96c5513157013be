"""The site of docs/ builds without a warning, and its pages need no network."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NEEDS = ("furo", "latex2mathml", "myst_nb", "sphinx")


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, NEEDS)), reason="needs pip install -e '.[docs]'")
def test_the_site_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    # conf.py warns of a public name that no page documents.
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "docs", str(tmp_path)]
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": search, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert pages
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"""<(?:script|img|link)\b[^>]*\b(?:src|href)=["']([^"']+)""", text)
        elsewhere = [address for address in loaded if re.match(r"(\w+:)?//", address)]
        assert loaded and not elsewhere, f"{page.name} loads {elsewhere}"
