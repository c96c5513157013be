"""Draw docs/architecture.svg: the files of jaxnst in their groups, and who imports whom.

    python docs/architecture.py

Groups and files are those of CONTRIBUTING.md, from the ground up, and imports are read from the
files. Each arc is an import of one group by another, as wide as the number of files that do so.
"""

import ast
import re
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "architecture.svg"

WIDTH, LEFT, RIGHT = 860, 20, 640  # of the picture, and of the rooms in it
LINE, GAP, HEAD = 21, 16, 30  # heights: of a line of files, between rooms, of a room's title
LETTER = 7.3  # width of one letter of a file's name
COLOURS = ("#4e79a7", "#59a14f", "#9c755f", "#f28e2b", "#e15759", "#b07aa1", "#76b7b2", "#8c8c8c")


def groups() -> dict[str, list[str]]:
    """Return the files of each group, from the ground up."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## The order of files")[2].partition("\n## ")[0]
    found: dict[str, list[str]] = {}
    for title, name in re.findall(r"^### (.+)$|^- `([\w/]+)`", section, flags=re.M):
        if title:
            files = found.setdefault(title, [])
        else:
            files.append(name)
    return found


def imports(name: str, files: set[str]) -> set[str]:
    """Return the files that a file imports."""
    tree = ast.parse((ROOT / "jaxnst" / f"{name}.py").read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxnst"):
            module = node.module.removeprefix("jaxnst").lstrip(".").replace(".", "/")
            for path in (f"{module}/{alias.name}".lstrip("/") for alias in node.names):
                options = (path, module, f"{module}/__init__".lstrip("/"))
                found |= set([option for option in options if option in files][:1])
    return found


def links(rooms: dict[str, list[str]]) -> dict[tuple[str, str], int]:
    """Return how many pairs of files have an import, by importing and imported group."""
    room_of = {name: title for title, names in rooms.items() for name in names}
    count: dict[tuple[str, str], int] = {}
    for name, title in room_of.items():
        for other in imports(name, set(room_of)):
            pair = title, room_of[other]
            count[pair] = count.get(pair, 0) + 1
    return count


def rows(names: list[str]) -> list[list[str]]:
    """Break names into lines that fit a room."""
    lines: list[list[str]] = [[]]
    for name in names:
        if sum(len(n) + 3 for n in (*lines[-1], name)) * LETTER > RIGHT - LEFT - 20:
            lines.append([])
        lines[-1].append(name)
    return lines


def draw() -> str:
    """Return the picture as SVG."""
    rooms = groups()
    shapes, middles, top = [], {}, 20.0
    for (title, names), colour in zip(reversed(rooms.items()), _cycle(len(rooms)), strict=True):
        short = [name.partition("/")[2] or name for name in names]
        lines = rows(short)
        height = HEAD + LINE * len(lines) + 6
        folder = names[0].partition("/")[0] if "/" in names[0] else ""
        where = f"jaxnst/{folder}/" if folder else "jaxnst/"
        shapes.append(
            f'<rect x="{LEFT}" y="{top}" width="{RIGHT - LEFT}" height="{height}" rx="6" '
            f'fill="{colour}" fill-opacity=".13" stroke="{colour}"/>'
            f'<text x="{LEFT + 12}" y="{top + 20}" class="title">{escape(title)}</text>'
            f'<text x="{RIGHT - 12}" y="{top + 20}" class="place">{where}</text>'
        )
        for i, line in enumerate(lines):
            text = "   ".join(line)
            y = top + HEAD + LINE * i + 13
            shapes.append(f'<text x="{LEFT + 12}" y="{y}" class="file">{escape(text)}</text>')
        middles[title] = (top + height / 2, colour)
        top += height + GAP
    arcs = [
        _arc(middles[above], middles[below], number)
        for (above, below), number in sorted(links(rooms).items())
        if above != below
    ]
    style = (
        "text{font-family:sans-serif;fill:#222}.title{font-weight:bold;font-size:15px}"
        ".place{font-size:12px;text-anchor:end;fill:#666}"
        ".file{font-family:monospace;font-size:12px;white-space:pre}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 8:g}">\n'
        f'<style>{style}</style>\n<rect width="{WIDTH}" height="{top + 8:g}" fill="white"/>\n'
        '<defs><marker id="end" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="9" '
        'markerHeight="9" markerUnits="userSpaceOnUse" orient="auto">'
        '<path d="M0 0 6 3 0 6z" fill="context-stroke"/></marker></defs>\n'
        + "\n".join((*arcs, *shapes))
        + "\n</svg>\n"
    )


def _cycle(count: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(count)][::-1]


def _arc(above: tuple[float, str], below: tuple[float, str], number: int) -> str:
    start, end, colour = above[0] + 5, below[0] - 5, above[1]
    reach = RIGHT + 24 + (end - start) * 0.26
    return (
        f'<path d="M{RIGHT} {start:.1f}C{reach:.1f} {start:.1f} {reach:.1f} {end:.1f} '
        f'{RIGHT + 3} {end:.1f}" fill="none" stroke="{colour}" stroke-opacity=".75" '
        f'stroke-width="{0.8 + number**0.5 * 0.6:.1f}" marker-end="url(#end)"/>'
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
