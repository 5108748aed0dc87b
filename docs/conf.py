"""How `make docs` makes a site of these pages: Sphinx, MyST for Markdown, autodoc for docs/reference.md.

The pages stay readable where Markdown is shown, so two things are added while building: index.md becomes the
navigation (a section a caption, its list the pages), and the names that reference.md lists become what their
docstrings say.
"""

import inspect
import re

from sphinx.application import Sphinx

import anysize

project = "anysize"
author = "the authors of anysize"
version = release = anysize.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4  # anchors as code hosts make them
myst_links_external_new_tab = False
default_role = "code"  # docstrings write `name`, as Markdown does
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100

html_theme = "furo"
html_title = f"anysize {version}"
html_show_copyright = html_show_sourcelink = False
html_copy_source = False


def navigation(source: str) -> str:
    """A hidden toctree for each section of index.md, of the pages that its list links to."""
    trees = []
    for section in re.split(r"^## ", source, flags=re.MULTILINE)[1:]:
        caption, _, rest = section.partition("\n")
        pages = "\n".join(re.findall(r"^- \[.*?\]\((.+?)\.md\)", rest, re.MULTILINE))
        trees.append(f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{pages}\n```\n")
    return source + "\n" + "\n".join(trees)


def directive(found: re.Match[str]) -> str:
    """What autodoc is to write in place of a name in the list of reference.md."""
    known = getattr(anysize, found[1])
    kind = "autoclass" if inspect.isclass(known) else "autofunction"
    if kind == "autoclass" and issubclass(known, Exception):
        kind = "autoexception"
    members = "\n   :members:\n   :exclude-members: __init__, __new__" if kind == "autoclass" else ""
    return f"\n```{{eval-rst}}\n.. {kind}:: anysize.{found[1]}{members}\n```\n"


def prepare(app: Sphinx, name: str, source: list[str]) -> None:
    if name == "index":
        source[0] = navigation(source[0])
    if name == "reference":
        source[0] = re.sub(r"^- `anysize\.(\w+)`.*$", directive, source[0], flags=re.MULTILINE)
    # Files of the repository that are no pages of the site are named, and not linked to.
    source[0] = re.sub(r"\[([^\]]+)\]\((?:\.\./)+[A-Z]+\.md\)", r"\1", source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", prepare)
