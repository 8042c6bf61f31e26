# SPDX-License-Identifier: MIT
"""
How Sphinx builds these pages.
"""

from nodecomm import __version__

project = "nodecomm"
author = "the nodecomm developers"
copyright = "2026, the nodecomm developers"
release = version = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
default_role = "literal"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"nodecomm {release}"
html_copy_source = False
# Furo asks its CSS for nothing from other sites; keep it so.
html_theme_options = {"source_edit_link": ""}
