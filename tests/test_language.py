"""The language of code and documents, as far as a test can judge it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FORBIDDEN = re.compile(
    r"\b(tells? (of|how|which|what)|told|that (is|are) none|what is no|behind each other|anew"
    r"|such(?! as\b))\b"
)
FOLDERS = ("benchmarks", "docs", "jaxnst", "notebooks", "tests", "weights")
FILES = [*ROOT.glob("*.md"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*"))]
FILES = [path for path in sorted(FILES) if path.suffix in (".py", ".md", ".html", ".ipynb")]
FILES.remove(Path(__file__).resolve())


def flatten(text):
    """Join a text across the breaks of lines and comments, and split names into words."""
    return " ".join(re.sub(r'^[\s"]*#+ ?', "", text, flags=re.M).replace("_", " ").split())


def is_long(line):
    """Whether a line has over 100 characters and is neither in a table nor a link."""
    return len(line) > 100 and not line.startswith("|") and "](" not in line


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_is_plain_and_lines_are_short(path):
    text = path.read_text(encoding="utf-8")
    flat = flatten(text).lower()
    found = [flat[max(0, m.start() - 30) : m.end() + 30] for m in FORBIDDEN.finditer(flat)]
    assert not found, f"rephrase in plain English: {found}"
    if path.suffix in (".py", ".md"):
        long = [i for i, line in enumerate(text.splitlines(), 1) if is_long(line)]
        assert not long, f"lines over 100 characters: {long}"


@pytest.mark.parametrize(
    "text",
    [
        "It tells of\nit",
        "were told",
        "begin anew",
        "a file that is none",
        "def test_what_is_no_job",
        "# for such\n# a file",
    ],
)
def test_the_pattern_finds(text):
    assert FORBIDDEN.search(flatten(text))


@pytest.mark.parametrize("text", ["names such as\nthese", "it tells them apart", "suchlike"])
def test_the_pattern_lets_pass(text):
    assert not FORBIDDEN.search(flatten(text))
