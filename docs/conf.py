# SPDX-License-Identifier: GPL-3.0-or-later
"""Configuration of the documentation site: `make docs` builds it into build/docs."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "extensions"), str(ROOT / "src")]

import diffjscc  # noqa: E402

project = "gr-diffjscc"
author = "the authors of gr-diffjscc"
copyright = f"2026, {author}"
version = release = diffjscc.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "plain_docstrings", "block_pages", "repository_links"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["doxygen", "extensions", "man"]

# What a page links to inside another page, such as results.md#speed.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
autodoc_default_options = {"members": True, "show-inheritance": True}
add_module_names = False
maximum_signature_line_length = 100

# They would turn the hyphens of --options into dashes.
smartquotes = False

html_theme = "furo"
html_title = f"gr-diffjscc {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
