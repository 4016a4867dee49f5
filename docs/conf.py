"""Sphinx configuration. The build reads docstrings and Markdown; it runs no model and needs no network."""

import os
from importlib.metadata import version as installed_version

from sphinx.ext.napoleon import GoogleDocstring
from torch import nn

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


def read_properties_as_methods(app, what, name, obj, options, lines):
    """Let a property's docstring be a sentence, with sections after it.

    Napoleon reads it as that of a variable: what stands before a colon is its type, and sections are left as they are.
    """
    if what in ("attribute", "data", "property"):
        read = GoogleDocstring(lines, app.config, app, "method", name, obj, options).lines()
        lines[:] = ["..", "", *read]  # an empty comment, in which Napoleon, who comes next, finds no colon


def without_inherited_signature(app, what, name, obj, options, signature, annotation):
    """Leave out the ``*args, **kwargs`` that a module without a constructor of its own seems to take."""
    return ("()", annotation) if what == "class" and obj.__init__ is nn.Module.__init__ else None


def setup(app):
    app.connect("autodoc-process-docstring", read_properties_as_methods, priority=400)
    app.connect("autodoc-process-signature", without_inherited_signature)
