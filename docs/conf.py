"""How the documentation is built: `make docs`.

The sources are the Markdown files of the repository, where they are: links work on the site as they
do in the files. The root of the sources is therefore the repository, not this directory.
"""

import re
import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math import latex2mathml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import featvis_jax  # noqa: E402

# What is loaded when it is first used has to be there for the reference.
vars(featvis_jax).update({name: getattr(featvis_jax, name) for name in featvis_jax.__all__})

project = "featvis_jax"
author = "The featvis_jax authors"
copyright = author
version = release = featvis_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "README.md",
    "BUILD.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "featvis_jax/zoo/README.md",
]
exclude_patterns = [".*", "build", "dist", "runs", "*.egg-info", "**/__pycache__"]
source_suffix = {".md": "markdown"}
# Headings are linked to as on the forges that show these files.
myst_heading_anchors = 3
myst_enable_extensions = ["attrs_block"]

# A name between single backticks is code, and a link where it has an entry.
default_role = "py:obj"
# Blocks that name no language are drawings and listings.
highlight_language = "none"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# Defaults as they are written: the value of many is a function or a whole object.
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False
napoleon_preprocess_types = False

html_math_renderer = "mathml"
html_theme = "furo"
html_title = f"featvis_jax {release}"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
templates_path = ["_templates"]
# The pages are under docs/, as the sources are; the address of the site leads to the first one.
html_additional_pages = {"index": "to_the_first_page.html"}


_SPANS = re.compile(r"(``.*?``|`[^`]*`|^ *\* )|([*|])", re.DOTALL | re.MULTILINE)


def _as_written(app, what, name, obj, options, lines):
    """Bring a docstring from plain text to reStructuredText.

    What is indented after an empty line, or between fences, is shown as it is; a star and a bar are
    a star and a bar.
    """
    text = re.sub(
        r"^```\w*\n(.*?)^```$",
        lambda block: "\n" + re.sub(r"^", "    ", block[1], flags=re.MULTILINE),
        "\n".join(lines),
        flags=re.MULTILINE | re.DOTALL,
    )
    found, prose, before = [], [], ""
    is_shown = 0  # Spaces before the lines that are shown as they are.
    for line in text.split("\n"):
        indent = len(line) - len(line.lstrip())
        if line.strip() and is_shown and indent < is_shown:
            is_shown = 0
        if line.strip() and not is_shown:
            gap = bool(prose or found) and not (prose or found)[-1].strip()
            is_example = line.lstrip().startswith(">>>")
            if is_example or (gap and indent >= 4 + len(before) - len(before.lstrip())):
                is_shown = max(indent, 1)
                found += [_escaped(prose)] if prose else []
                prose = []
                if not is_example:
                    found += [" " * (indent - 4) + "::", ""]
        (found if is_shown else prose).append(line)
        before = line if line.strip() else before
    found += [_escaped(prose)] if prose else []
    lines[:] = "\n".join(found).split("\n")


def _escaped(prose):
    text = re.sub(r"`` (`[^`]+`) ``", r"``\1``", "\n".join(prose))
    return _SPANS.sub(lambda match: match[1] or "\\" + match[2], text)


def _fields(app, what, name, obj, skip, options):
    """Leave out what a named tuple says of its fields, which its docstring says better."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _formula(self, node):
    """Write a formula as MathML, which browsers know without a script from elsewhere."""
    as_block = isinstance(node, nodes.math_block)
    self.body.append(latex2mathml.tex2mathml(node.astext(), as_block=as_block))
    raise nodes.SkipNode


def setup(app):
    """Register what is done to docstrings and formulas."""
    app.add_html_math_renderer("mathml", (_formula, None), (_formula, None))
    # Before sections such as Args are made of it.
    app.connect("autodoc-process-docstring", _as_written, priority=400)
    app.connect("autodoc-skip-member", _fields)
