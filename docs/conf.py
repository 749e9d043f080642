"""The documentation's build. Nothing is fetched, neither here nor by the reader's browser."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_extensions"))

from snn_rl import __version__  # noqa: E402

project = "snn-rl"
author = "snn-rl contributors"
copyright = author  # Sphinx's name for it
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "mathml",
    "reference",
    "offline",
]
exclude_patterns = ["_extensions"]

# What is written between single backticks in a docstring is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
napoleon_use_ivar = True
napoleon_use_rtype = False
# Several modules have a Stage, a Run, an Evaluation: a link goes to the nearest.
smartquotes_action = "qe"  # --option keeps its dashes
suppress_warnings = ["ref.python"]

myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline", "attrs_block"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

# Tutorials run at every build; one that fails, fails the build.
nb_execution_mode = os.environ.get("SNN_RL_TUTORIALS", "force")
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
nb_output_stderr = "remove"

html_theme = "furo"
html_title = "snn-rl"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["../build/docs-extra"]  # the live page, from docs/live/make.py
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1f6f8b",
        "color-brand-content": "#1f6f8b",
        "font-stack": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
    },
    "dark_css_variables": {"color-brand-primary": "#62b8d4", "color-brand-content": "#62b8d4"},
}
