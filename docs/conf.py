"""The settings of the site: `python -m sphinx -W docs site` builds it in the folder `site`."""

import shutil
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

import jaxnst

project = "jaxnst"
author = copyright = "The jaxnst authors"
version = release = jaxnst.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
nb_execution_mode = "off"  # the notebooks are kept with their outputs
nb_ipywidgets_js: dict[str, Any] = {}  # nothing is loaded from elsewhere
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"jaxnst {release}"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["math.css"]
html_copy_source = False
smartquotes_action = "D"  # dashes only

nitpicky = True
# In docstrings, `name` is a link if jaxnst documents the name, and otherwise code.
default_role = "py:obj"
nitpick_ignore_regex = [("py:obj", ".*"), ("py:class", r"(jax|numpy|optax|collections)\..*")]
napoleon_use_ivar = True
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # shapes and ranges stand in the docstrings


def show_math(self: Any, node: nodes.math | nodes.math_block) -> None:
    """Write an equation as MathML, which browsers show by themselves, without a network."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    self.body.append(convert(node.astext(), display=display))
    raise nodes.SkipNode


def escape(app: Sphinx, kind: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Keep |x| in a docstring from being read as a substitution of reStructuredText."""
    lines[:] = [x if x.startswith(">>>") else x.replace("|", r"\|") for x in lines]


def link_names(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Link code that is a public name to its place in the API, so that Markdown stays plain."""
    documented = app.env.domaindata["py"]["objects"]
    for code in list(doctree.findall(nodes.literal)):
        name = code.astext().removeprefix("jaxnst.").partition("(")[0]
        inside = isinstance(code.parent, nodes.reference | nodes.title)
        if name in jaxnst.__all__ and not inside and (entry := documented.get(f"jaxnst.{name}")):
            address = app.builder.get_relative_uri(page, entry.docname)
            link = nodes.reference(refuri=f"{address}#{entry.node_id}", internal=True)
            code.replace_self(link)
            link += code


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
    app.connect("doctree-resolved", link_names)
    app.connect("env-check-consistency", check_names)
