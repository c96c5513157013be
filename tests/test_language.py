"""The language of code and documents, as far as a test can judge it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = re.compile(
    r"\b(tells? of|tells (how|which|what)|told|that is none|what is no|behind each other|anew)\b"
)
FILES = [
    path
    for pattern in (
        "jaxnst/app/*",
        "jaxnst/decode.py",
        "jaxnst/files.py",
        "jaxnst/formats/*",
        "jaxnst/images.py",
        "tests/test_animation.py",
        "tests/test_containers*.py",
        "tests/test_decode.py",
        "tests/test_files.py",
        "tests/test_images.py",
        "tests/test_known_files*.py",
        "tests/test_labels.py",
        "tests/test_layouts*.py",
        "tests/test_page.py",
        "tests/test_params.py",
        "tests/test_plot.py",
        "tests/test_sheet.py",
        "tests/test_torch*.py",
        "tests/torch_writer.py",
    )
    for path in sorted(ROOT.glob(pattern))
    if path.suffix in (".py", ".md")
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_plain_and_lines_are_short(path):
    text = path.read_text(encoding="utf-8")
    flat = " ".join(re.sub(r"^\s*#+ ?", "", text, flags=re.M).split())  # across line breaks
    found = [flat[max(0, m.start() - 30) : m.end() + 30] for m in FORBIDDEN.finditer(flat.lower())]
    assert not found, f"rephrase in plain English: {found}"
    long = [i for i, line in enumerate(text.splitlines(), 1) if len(line) > 100]
    assert not long, f"lines over 100 characters: {long}"


@pytest.mark.parametrize(
    "text", ["It tells of\nit", "were told", "begin anew", "a file that is none"]
)
def test_the_pattern_finds(text):
    assert FORBIDDEN.search(" ".join(text.split()))
