"""Sphinx configuration. The build reads docstrings and Markdown; it runs no model and needs no network."""

import os
from importlib.metadata import version as installed_version

os.environ.setdefault("MPLBACKEND", "Agg")

project = "amortvi"
author = "The amortvi developers"
copyright = "The amortvi developers"
release = version = installed_version("amortvi")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build"]

# In docstrings `Name` is a link to a name of ours where there is one, and plain text where not.
default_role = "py:obj"

html_theme = "furo"
html_title = f"amortvi {release}"
html_show_copyright = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True  # as written in the source, not as evaluated
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_use_unqualified_type_names = True
add_module_names = False

# `make docs` is nitpicky: a reference that leads nowhere is an error. Annotations also name the classes of
# other libraries, which are not looked up (that needs the network), and insides of ours that have no page;
# what is public must be found.
areas = "datasets|encoders|errors|families|models|objectives|plots|testing"
nitpick_ignore_regex = [
    (r"py:(class|data|obj|exc)", rf"(?!amortvi\.(({areas})\.)?\w+$).*"),
    (r"py:.*", r"(arviz|matplotlib|numpy|pandas|pyro|sklearn|torch|xarray)\..*"),
]
