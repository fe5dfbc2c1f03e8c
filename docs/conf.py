"""The site that `make docs` builds: the pages as they stand in the repository, and a reference made from the code.

The source folder is the root of the repository, so that the links between the README, the pages and the notebooks
are the same here and on a code host.
"""

import sys
from importlib.metadata import version as installed
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import reference  # noqa: E402  # it stands beside this file

CONTENTS = """
```{toctree}
:hidden:
:caption: Pages
:glob:

docs/questions
docs/glossary
docs/comparison
docs/performance
docs/cka
docs/statistics
docs/which-index
docs/smoothing
docs/replicates
docs/nano
docs/refiner
docs/tested-models
docs/reviewers
docs/gallery
docs/tables
docs/report
docs/reliability
docs/file-format
docs/*
```

```{toctree}
:hidden:
:caption: How to
:glob:

docs/howto/checkpoint
docs/howto/own-data
docs/howto/hugging-face
docs/howto/training
docs/howto/arrays
docs/howto/laptop
docs/howto/how-long
docs/howto/column
docs/howto/*
```

```{toctree}
:hidden:
:caption: Notebooks
:glob:

notebooks/*
```

```{toctree}
:hidden:
:caption: Reference

docs/reference/commands
docs/reference/python
```

```{toctree}
:hidden:
:caption: The project

CONTRIBUTING
CHANGELOG
```
"""
"""What the sidebar shows; a page that nobody placed comes last among those of its kind."""

project = "refiner-cka"
author = "refiner-cka contributors"
version = release = installed(project)

root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**", "notebooks/*.ipynb"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"
suppress_warnings = ["mystnb.unknown_mime_type"]

smartquotes_action = "qe"  # no dashes: `--` belongs to commands

# What stands between backticks in a docstring is code, and a link where it names something public.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 80
napoleon_use_ivar = True

templates_path = ["_templates"]
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme = "furo"
html_title = f"{project} {version}"
html_additional_pages = {"index": "index.html"}
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False


def _with_contents(_app: Sphinx, page: str, source: list[str]) -> None:
    """Give the first page the sidebar's contents, which a code host would show as text."""
    if page == root_doc:
        source[0] += CONTENTS


def _as_rst(
    _app: Sphinx, _what: str, _name: str, _thing: object, _options: object, lines: list[str]
) -> None:
    lines[:] = reference.as_rst("\n".join(lines)).split("\n")


def _mathml(writer: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers draw by themselves: MathJax would be loaded from elsewhere."""
    writer.body.append(tex2mathml(node.astext(), as_block=isinstance(node, nodes.math_block)))
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Write the reference before pages are looked for."""
    app.connect("builder-inited", lambda _app: reference.write(ROOT / "docs" / "reference"))
    app.connect("source-read", _with_contents)
    app.connect("autodoc-process-docstring", _as_rst, priority=400)  # before napoleon
    app.add_html_math_renderer("mathml", (_mathml, None), (_mathml, None))
