"""The order of the files, who may import what, and the rules for public signatures."""

import ast
import inspect
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import environment

import jaxnst

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jaxnst"
KEEPERS = {  # third-party package -> the only files that may import it
    "IPython": {"preview"},
    "PIL": {
        "kinds",
        "tiff",
        "decode",
        "pixels",
        "images",
        "curves",
        "preview",
        "app/animation",
        "app/sheet",
        "app/page",
    },
    "h5py": {"formats/containers"},
    "imagecodecs": {"decode"},
    "matplotlib": {"app/plot"},
    "pooch": {"formats/known_files"},
    "psutil": {"devices", "files"},
    "requests": {"formats/known_files"},
    "rich": {"app/progress"},
    "safetensors": {"app/checkpoint", "formats/containers"},
    "scipy": set(),
    "tifffile": {"tiff"},
    "torch": set(),
}
# What Windows does not have: modules, and attributes of `os`, `signal` and `errno`.
POSIX_MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
POSIX_NAMES = re.compile(
    r"signal[.](SIG(HUP|KILL|USR1|USR2|STOP|CONT|PIPE|ALRM|CHLD|QUIT)|pause|pthread_\w+|alarm"
    r"|setitimer)|os[.](fork\w*|mkfifo|mknod|\w*chown|\w*et(res|re|e)?[ug]id|uname|statvfs|nice"
    r"|sched_\w+|killpg|setsid|wait[34]?|confstr|sysconf|O_(NOFOLLOW|DIRECTORY|CLOEXEC|NONBLOCK)"
    r"|posix_\w+|getloadavg|openpty|register_at_fork|sync)"
)
IMAGES = {"image", "images", "content", "contents", "style", "styles", "sources"}


def listed_files():
    """The files in CONTRIBUTING.md, from the ground up."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.partition("## The order of files")[2].partition("\n## ")[0]
    return re.findall(r"^- `([\w/]+)`", section, flags=re.M)


ORDER = listed_files()
FILES = {
    path.relative_to(PACKAGE).with_suffix("").as_posix(): ast.parse(path.read_text("utf-8"))
    for path in sorted(PACKAGE.glob("**/*.py"))
}
FUNCTIONS = [name for name in jaxnst.__all__ if inspect.isroutine(getattr(jaxnst, name))]
CLASSES = [name for name in jaxnst.__all__ if inspect.isclass(getattr(jaxnst, name))]


def imported_modules(tree):
    """Dotted names of all that `tree` imports, wherever in it; `from a import b` is `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_files(tree):
    """Files of jaxnst that `tree` imports; another name comes from its package's `__init__`."""
    for module in imported_modules(tree):
        top, _, rest = module.partition(".")
        if top != "jaxnst":
            continue
        name = rest.replace(".", "/")
        while name and name not in ORDER and f"{name}/__init__" not in ORDER:
            name = name.rpartition("/")[0]
        yield name if name in ORDER else f"{name}/__init__".lstrip("/")


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


def needs_posix(tree):
    """Lines of `tree` that fail on Windows, where no `try` and no `if` guards them."""
    guarded = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Try) or (
            isinstance(node, ast.If)
            and re.search(r"sys[.]platform|hasattr", ast.unparse(node.test))
        ):
            guarded |= {*ast.walk(node)}
    for node in {*ast.walk(tree)} - guarded:
        if isinstance(node, ast.Import | ast.ImportFrom):
            if POSIX_MODULES & {name.partition(".")[0] for name in imported_modules(node)}:
                yield node.lineno
        elif isinstance(node, ast.Attribute) and POSIX_NAMES.fullmatch(ast.unparse(node)):
            yield node.lineno


def test_the_picture_of_the_files_shows_them():
    script = runpy.run_path(str(ROOT / "docs" / "architecture.py"))
    assert [name for names in script["groups"]().values() for name in names] == ORDER
    drawn = (ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    assert drawn == script["draw"](), "run docs/architecture.py"


def test_each_file_is_listed_once():
    assert sorted(ORDER) == sorted(FILES), "list each file once in CONTRIBUTING.md"


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_what_it_may_and_neither_prints_nor_exits(name):
    tree = FILES[name]
    assert name in ORDER, f"{name} is not listed: give it a line in CONTRIBUTING.md"
    wrong = sorted(set(imported_files(tree)) - set(ORDER[: ORDER.index(name)]))
    assert not wrong, f"{name} imports {wrong}, which CONTRIBUTING.md does not list before it"
    nodes = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
    assert not nodes, f"{name} has relative imports on lines {[n.lineno for n in nodes]}"
    packages = {module.partition(".")[0] for module in imported_modules(tree)}
    wrong = sorted(p for p in packages & set(KEEPERS) if name not in KEEPERS[p])
    assert not wrong, f"{name} imports {wrong}, which is kept to {KEEPERS}"
    assert not list(needs_posix(tree)), f"{name} needs POSIX on lines {list(needs_posix(tree))}"
    if name not in {"app/output", "app/cli", "__main__"}:
        lines = list(prints_or_exits(tree))
        assert not lines, f"{name} prints or exits on lines {lines}"


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("import jaxnst", ["__init__"]),
        ("import jaxnst.vgg as v", ["vgg"]),
        ("from jaxnst import losses, load_image", ["losses", "__init__"]),
        ("from jaxnst.losses import gram_matrix", ["losses"]),
        ("from jaxnst.app import sheet, cli", ["app/sheet", "app/cli"]),
        ("from jaxnst.app.sheet import thumbnail", ["app/sheet"]),
        ("from jaxnst import app", ["app/__init__"]),
        ("def f():\n    from jaxnst.app.cli import main", ["app/cli"]),
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


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import fcntl", True),
        ("def f():\n    from resource import getrusage", True),
        ("import signal\nsignal.signal(signal.SIGHUP, f)", True),
        ("import os\nif os.getuid() == 0: pass", True),
        ("try:\n    import fcntl\nexcept ImportError:\n    fcntl = None", False),
        ("import os, sys\nif sys.platform == 'linux':\n    os.getuid()", False),
        ("import os, signal\nos.getpid(), os.O_RDONLY, signal.SIGINT, signal.SIGTERM", False),
    ],
)
def test_the_walk_finds_what_windows_does_not_have(source, found):
    assert bool(list(needs_posix(ast.parse(source)))) is found


def test_all_is_one_explicit_list():
    tree = ast.parse((PACKAGE / "public.py").read_text(encoding="utf-8"))
    lists = [
        node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert len(lists) == 1, "public.py assigns __all__ once"
    names = ast.literal_eval(lists[0])
    assert len(set(names)) == len(names), "a name stands twice in __all__"
    assert list(names) == list(jaxnst.__all__)
    missing = [name for name in names if not hasattr(jaxnst, name)]
    assert not missing, f"{missing} in __all__, but not in jaxnst"


def test_jax_is_imported_when_a_name_is_asked_for_and_no_file_hides_its_function():
    hidden = set(jaxnst._HIDDEN)
    assert hidden == {*jaxnst.__all__} & {*FILES}
    code = f"""if True:
        import sys
        import jaxnst
        assert "jax" not in sys.modules and jaxnst.__version__
        assert not hasattr(jaxnst, "__wrapped__") and "jax" not in sys.modules
        import {", ".join(f"jaxnst.{name}" for name in hidden)}
        from jaxnst.vgg import VGG19
        assert all(callable(getattr(jaxnst, name)) for name in {hidden})
        assert jaxnst.vgg.VGG19 is VGG19 is jaxnst.VGG19
        assert {{*jaxnst.__all__}} < {{*dir(jaxnst)}} and not hasattr(jaxnst, "nothing")
    """
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_come_as_key_images_params_others_and_options_by_keyword(name):
    def rank(argument):
        if argument == "key":
            return 0
        if argument in IMAGES:
            return 1
        return 2 if argument == "params" else 3

    positional = [
        p
        for p in inspect.signature(getattr(jaxnst, name)).parameters.values()
        if p.kind not in (p.KEYWORD_ONLY, p.VAR_KEYWORD)
    ]
    # A path says where, not what: save_image(path, image) reads as load_image(path) does.
    order = [p.name for p in positional if p.name != "path"]
    assert order == sorted(order, key=rank), f"{name} takes {order}"
    options = {p.name for p in positional if p.default is not p.empty}
    # load_params(path); optax's transformations begin with their rate; `where` is data.
    options -= {"load_params": {"path"}, "lbfgs": {"learning_rate"}}.get(name, set()) | {"where"}
    assert not options, f"{name}: {options} have defaults, so they come after `*`"


@pytest.mark.parametrize("name", FUNCTIONS + CLASSES)
def test_public_name_has_a_docstring(name):
    doc = inspect.getdoc(getattr(jaxnst, name)) or ""
    # dataclass and NamedTuple write a docstring of their own, which is only the signature.
    assert doc and not doc.startswith(f"{name}("), f"{name} has no docstring"
