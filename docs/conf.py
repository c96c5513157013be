"""The settings of the site: `python -m sphinx -W docs site` builds it in the folder `site`."""

import re
import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.osutil import relative_uri

import jaxnst

project = "jaxnst"
author = copyright = "The jaxnst authors"
version = release = jaxnst.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["evaluation.md"]  # performance.md includes it
nb_execution_mode = "off"  # the notebooks are kept with their outputs
nb_merge_streams = True  # what a cell prints is one block
nb_ipywidgets_js: dict[str, Any] = {}  # nothing is loaded from elsewhere
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"jaxnst {release}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
smartquotes_action = "D"  # dashes only

nitpicky = True
# In docstrings, `name` is a link if jaxnst documents the name, and otherwise code.
default_role = "py:obj"
nitpick_ignore_regex = [("py:obj", ".*"), ("py:class", r"(jax|numpy|optax|collections)\..*")]
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_attr_annotations = False
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and ranges stand in the docstrings

#: Options, commands and files have these names too, so only "jaxnst.init" is a link to `init`.
AMBIGUOUS = {"init", "lbfgs", "minimize", "sweep"}


def show_math(self: Any, node: nodes.math | nodes.math_block) -> None:
    """Write an equation as MathML, which browsers show by themselves, without a network."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    text = convert(node.astext(), display=display)
    # Bars and arrows have the size of the text, unless \left or \big asks for another.
    text = re.sub(r"<mo>(?=&#x0(007C|2016|2191|2193);)", '<mo stretchy="false">', text)
    # Chromium draws a large delimiter too small and too low where it alone has the exponent.
    text = re.sub(r"(<msup>)(<mo [^>]*minsize[^>]*>.</mo>)", r"\1<mrow>\2<mi></mi></mrow>", text)
    self.body.append(text)
    raise nodes.SkipNode


def show_signature(
    app: Sphinx, kind: str, name: str, value: Any, options: Any, arguments: Any, returned: Any
) -> tuple[str, Any] | None:
    """Name defaults as one writes them, without what Protocol and flax add."""
    if not arguments:
        return None
    for added in (r"^\(\*args, \*\*kwargs\)$", r", parent=<.*?>, name=None"):
        arguments = re.sub(added, "", arguments)
    return re.sub(r"<(?:function|class) '?([\w.]+)'?>", r"\1", arguments), returned


def escape(app: Sphinx, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Keep |x| in a docstring from being read as a substitution of reStructuredText."""
    if lines and lines[0].startswith("Alias for field number"):
        lines.clear()  # Python's own docstring of a NamedTuple's field
    lines[:] = [x if x.startswith(">>>") else x.replace("|", r"\|") for x in lines]


def link_names(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Link code that names a function, a page or a notebook, so that Markdown stays plain."""
    documented = app.env.domaindata["py"]["objects"]
    names = set(jaxnst.__all__) - AMBIGUOUS | {f"jaxnst.{name}" for name in jaxnst.__all__}
    pages = {}
    for found in app.env.found_docs:
        folder, _, file = found.rpartition("/")
        pages[file if folder == "notebooks" else f"docs/{found}.md"] = found
    for code in list(doctree.findall(nodes.literal)):
        text = code.astext()
        name = text.partition("(")[0]
        if max(map(len, text.split()), default=0) > 36:
            code["classes"].append("long")
        if isinstance(code.parent, nodes.reference | nodes.title):
            continue
        if name in names and (entry := documented.get(f"jaxnst.{name.removeprefix('jaxnst.')}")):
            address = app.builder.get_relative_uri(page, entry.docname) + f"#{entry.node_id}"
        elif target := pages.get(text.removesuffix(".ipynb")):
            address = app.builder.get_relative_uri(page, target)
        else:
            continue
        link = nodes.reference(refuri=address, internal=True)
        code.replace_self(link)
        link += code


def link_images(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Link each image to its file: on a phone, a sheet of pictures is too small otherwise."""
    here = app.builder.get_target_uri(page)
    for image in list(doctree.findall(nodes.image)):
        _, file = app.env.images[image["uri"]]
        if "alt" not in image:
            image["alt"] = "the output of this cell"
        link = nodes.reference(refuri=relative_uri(here, f"_images/{file}"), internal=True)
        image.replace_self(link)
        link += image


def check_names(app: Sphinx, env: BuildEnvironment) -> None:
    """Warn of each public name that no page documents, which `-W` makes an error."""
    documented = env.domaindata["py"]["objects"]
    for name in jaxnst.__all__:
        if f"jaxnst.{name}" not in documented:
            logging.getLogger(__name__).warning("no page of docs/api documents jaxnst.%s", name)


def bring_notebooks(app: Sphinx, config: Any) -> None:
    """Copy the notebooks into the source folder, outside which Sphinx reads nothing."""
    folder = Path(app.srcdir) / "notebooks"
    folder.mkdir(exist_ok=True)
    for notebook in (Path(app.srcdir).parent / "notebooks").glob("*.ipynb"):
        shutil.copy2(notebook, folder)


def setup(app: Sphinx) -> None:
    """Connect the functions above with Sphinx."""
    app.connect("config-inited", bring_notebooks)
    app.add_html_math_renderer("mathml", (show_math, None), (show_math, None))
    app.connect("autodoc-process-docstring", escape)
    app.connect("autodoc-process-signature", show_signature)
    app.connect("doctree-resolved", link_names)
    app.connect("doctree-resolved", link_images)
    app.connect("env-check-consistency", check_names)
