"""The order of the files, who may import what, and the rules for public signatures."""

import ast
import inspect
from pathlib import Path

import pytest

import jaxnst

PACKAGE = Path(__file__).resolve().parents[1] / "jaxnst"

# What the ground too may import.
BASE = ("files", "checks", "signals", "convolution", "torch_pickle")
GROUND = (
    "vgg",
    "losses",
    "lbfgs",
    "spectrum",
    "optimize",
    "color",
    "pyramid",
    "images",
    "animation",
    "plot",
    "checkpoint",
    "manifest",
    "hosts",
    "torch_file",
    "known_files",
)
# Each imports only what stands before it; `jaxnst` itself, the public names, comes just before cli.
ABOVE = (
    "layouts",
    "containers",
    "params",
    "objective",
    "tiling",
    "transfer_config",
    "transfer",
    "presets",
    "lanes",
    "sweep",
    "labels",
    "sheet",
    "sweep_folder",
    "batch",
    "__init__",
    "options",
    "parser",
    "progress",
    "recorder",
    "cli",
    "__main__",
)
ORDER = BASE + GROUND + ABOVE
KEEPERS = {  # third-party package -> the only files that may import it
    "PIL": {"animation", "images", "sheet"},
    "h5py": {"containers"},
    "matplotlib": {"plot"},
    "orbax": {"checkpoint", "hosts"},
    "pooch": {"known_files"},
    "rich": {"progress"},
    "psutil": {"lanes"},
    "safetensors": {"containers"},
    "scipy": {"containers"},
    "torch": set(),
}
IMAGES = {"image", "images", "content", "contents", "style", "styles"}

FILES = sorted(PACKAGE.glob("**/*.py"))
FUNCTIONS = [
    name
    for name in jaxnst.__all__
    if callable(getattr(jaxnst, name)) and not inspect.isclass(getattr(jaxnst, name))
]
CLASSES = [name for name in jaxnst.__all__ if inspect.isclass(getattr(jaxnst, name))]


def imported_modules(tree):
    """Dotted names of all that `tree` imports, wherever in it; relative imports made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                origin = f"jaxnst.{origin}".rstrip(".")
            if origin == "jaxnst":
                yield from (f"jaxnst.{alias.name}" for alias in node.names)
            else:
                yield origin


def imported_files(tree):
    """Files of jaxnst that `tree` imports; a name that is no file comes from `__init__`."""
    for module in imported_modules(tree):
        top, _, rest = module.partition(".")
        if top == "jaxnst":
            name = rest.partition(".")[0]
            yield name if name in ORDER else "__init__"


def prints_or_exits(tree):
    """Lines of `tree` that print or end the process."""
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.Call):
            text = ast.unparse(node.func)
        elif isinstance(node, ast.Raise) and node.exc is not None:
            text = ast.unparse(node.exc).partition("(")[0]
        elif isinstance(node, ast.ImportFrom) and node.module == "sys":
            text = " ".join(f"sys.{alias.name}" for alias in node.names)
        if {"print", "exit", "quit", "sys.exit", "os._exit", "SystemExit"} & set(text.split()):
            yield node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_has_a_place_and_imports_only_what_stands_before_it(path):
    assert path.parent == PACKAGE, f"{path}: the package is flat, no sub-packages"
    assert path.stem in ORDER, (
        f"{path.name} has no place in the order of files: put it in GROUND or ABOVE of this test"
    )
    above = BASE if path.stem in GROUND else ORDER[: ORDER.index(path.stem)]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wrong = sorted(set(imported_files(tree)) - set(above))
    assert not wrong, f"{path.name} may not import {wrong}, only {list(above)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_file_imports_no_package_that_another_file_keeps(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    packages = {module.partition(".")[0] for module in imported_modules(tree)}
    wrong = sorted(p for p in packages & set(KEEPERS) if path.stem not in KEEPERS[p])
    assert not wrong, f"{path.name} imports {wrong}, which is kept to {KEEPERS}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_only_cli_prints_or_exits(path):
    lines = list(prints_or_exits(ast.parse(path.read_text(encoding="utf-8"))))
    assert path.stem in ("cli", "__main__") or not lines, (
        f"{path.name} prints or exits on lines {lines}"
    )


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("import jaxnst", ["__init__"]),
        ("import jaxnst.vgg as v", ["vgg"]),
        ("from jaxnst import losses, load_image", ["losses", "__init__"]),
        ("from jaxnst.losses import gram_matrix", ["losses"]),
        ("from . import color", ["color"]),
        ("from .color import match", ["color"]),
        ("def f():\n    from jaxnst.cli import main", ["cli"]),
        ("import jaxnsty.vgg, jax", []),
    ],
)
def test_the_walk_finds_each_form_of_import(source, files):
    assert list(imported_files(ast.parse(source))) == files


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("print(1)", True),
        ("import sys\nsys.exit(2)", True),
        ("from sys import exit", True),
        ("raise SystemExit(2)", True),
        ("jax.debug.print('x')", False),
        ("raise ValueError('print(1)')", False),
    ],
)
def test_the_walk_finds_each_form_of_print_and_exit(source, found):
    assert bool(list(prints_or_exits(ast.parse(source)))) is found


def test_all_is_one_explicit_list():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    lists = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert len(lists) == 1, "__init__.py assigns __all__ once"
    names = ast.literal_eval(lists[0])
    assert len(set(names)) == len(names), "a name stands twice in __all__"
    assert list(names) == list(jaxnst.__all__)
    missing = [name for name in names if not hasattr(jaxnst, name)]
    assert not missing, f"{missing} in __all__, but not in jaxnst"


def arguments(name):
    """Public function `name`'s parameters that may be passed by position, and by keyword only."""
    parameters = inspect.signature(getattr(jaxnst, name)).parameters.values()
    keyword_only = [p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.VAR_KEYWORD)]
    return [p for p in parameters if p not in keyword_only], keyword_only


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_come_as_key_images_params_others(name):
    def rank(argument):
        if argument == "key":
            return 0
        if argument in IMAGES:
            return 1
        return 2 if argument == "params" else 3

    # A path says where, not what: save_image(path, image) reads as load_image(path) does.
    order = [p.name for p in arguments(name)[0] if p.name != "path"]
    assert order == sorted(order, key=rank), f"{name} takes {order}"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_are_keyword_only(name):
    options = [p.name for p in arguments(name)[0] if p.default is not p.empty]
    if name == "load_params":  # load_params() is the bundled network, load_params(path) any other
        options = [option for option in options if option != "path"]
    assert not options, f"{name}: {options} have defaults, so they come after `*`"


@pytest.mark.parametrize("name", FUNCTIONS + CLASSES)
def test_public_name_has_a_docstring(name):
    doc = inspect.getdoc(getattr(jaxnst, name)) or ""
    # dataclass and NamedTuple write a docstring of their own, which is only the signature.
    assert doc and not doc.startswith(f"{name}("), f"{name} has no docstring"
