"""Sphinx configuration. The build executes the tutorials; without a network, links to other projects come from `inventories/`."""

import hashlib
import logging
import os
import shutil
import sys
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path

from sphinx.ext.napoleon import GoogleDocstring
from torch import nn

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

# For the kernels that execute pages, which inherit the environment: a profile, figures in the page, one thread.
profile = HERE / "_build" / "ipython" / "profile_default"
profile.mkdir(parents=True, exist_ok=True)
shutil.copy(HERE / "_ext" / "ipython_kernel_config.py", profile)
os.environ["IPYTHONDIR"] = str(profile.parent)
os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
os.environ["OMP_NUM_THREADS"] = "1"

# MathJax, of which the package has copies for all purposes, becomes a part of the site: formulas need no other server.
mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
for part in (mathjax / "tex-chtml-full.js", *(mathjax / "output" / "chtml" / "fonts").rglob("*.woff")):
    copied = HERE / "_build" / "static" / "mathjax" / part.relative_to(mathjax)
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(part, copied)
mathjax_path = "mathjax/tex-chtml-full.js"

# Reports of progress, and of a font of the social cards that has no bold.
logging.getLogger("traitlets").setLevel(logging.WARNING)
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

project = "amortvi"
author = "The amortvi developers"
copyright = "The amortvi developers"
release = version = installed_version("amortvi")

extensions = [
    "myst_nb",
    "notebooks",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxext.opengraph",
]
exclude_patterns = ["_build"]

# In docstrings `Name` is a link to a name of ours where there is one, and plain text where not.
default_role = "py:obj"

html_theme = "furo"
html_title = f"amortvi {release}"
html_show_copyright = False
html_static_path = ["_static", "_build/static"]
html_css_files = ["amortvi.css"]
html_favicon = "_static/favicon.svg"
html_baseurl = os.environ.get("DOCS_URL", "https://amortvi.github.io/amortvi/")
ogp_site_url = html_baseurl
ogp_social_cards = {"line_color": "#D55E00"}
copybutton_selector = "div:not(.output) > div.highlight pre"  # code, not what it prints
copybutton_exclude = ".linenos, .gp, .go"

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3

# A cell that fails or writes to stderr is a warning, which fails the build. Results are kept until page or package change.
package = hashlib.sha256(b"".join(path.read_bytes() for path in sorted((HERE.parent / "amortvi").rglob("*.py"))))
nb_execution_mode = "cache"
nb_execution_cache_path = str(HERE / "_build" / "executed" / package.hexdigest()[:16])
nb_execution_show_tb = True
nb_execution_timeout = 300  # seconds a cell
nb_execution_in_temp = True
nb_merge_streams = True
if only := os.environ.get("DOCS_ONLY"):  # DOCS_ONLY='tutorials/c*' executes those pages and no others
    pages, chosen = ({str(path.relative_to(HERE)) for path in HERE.glob(f"{glob}.md")} for glob in ("**/*", only))
    nb_execution_excludepatterns = sorted(pages - chosen)
nb_output_stderr = "remove-warn"

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

# Each project's own list of names or, without a network, the names that we refer to.
SITES = {
    "arviz": "https://python.arviz.org/en/v0.23.0/",
    "numpy": "https://numpy.org/doc/stable/",
    "pandas": "https://pandas.pydata.org/docs/",
    "pyro": "https://docs.pyro.ai/en/stable/",
    "python": "https://docs.python.org/3/",
    "torch": "https://docs.pytorch.org/docs/stable/",
    "xarray": "https://docs.xarray.dev/en/stable/",
    "zuko": "https://zuko.readthedocs.io/stable/",
}
intersphinx_mapping = {name: (site, (None, f"inventories/{name}.inv")) for name, site in SITES.items()}
intersphinx_timeout = 5

# What annotations and docstrings call by another name than the documentation of its project does.
PUBLIC = {
    "Any": "typing.Any",
    "AutoGuide": "pyro.infer.autoguide.AutoGuide",
    "AutoNormal": "pyro.infer.autoguide.AutoNormal",
    "Callable": "collections.abc.Callable",
    "DataLoader": "torch.utils.data.DataLoader",
    "Dataset": "torch.utils.data.Dataset",
    "Literal": "typing.Literal",
    "Mapping": "collections.abc.Mapping",
    "Path": "pathlib.Path",
    "Sequence": "collections.abc.Sequence",
    "Tensor": "torch.Tensor",
    "concurrent.futures._base.Executor": "concurrent.futures.Executor",
    "nn.Module": "torch.nn.Module",
    "pd.DataFrame": "pandas.DataFrame",
    "pyro.deterministic": "pyro.primitives.deterministic",
    "pyro.distributions.torch_distribution.TorchDistribution": "pyro.distributions.TorchDistribution",
    "pyro.infer.Predictive": "pyro.infer.predictive.Predictive",
    "pyro.infer.RenyiELBO": "pyro.infer.renyi_elbo.RenyiELBO",
    "pyro.infer.SVI": "pyro.infer.svi.SVI",
    "pyro.infer.autoguide.guides.AutoGuide": "pyro.infer.autoguide.AutoGuide",
    "pyro.plate": "pyro.primitives.plate",
    "pyro.poutine.scale": "pyro.poutine.handlers.scale",
    "pyro.sample": "pyro.primitives.sample",
    "timedelta": "datetime.timedelta",
    "torch.distributions.Distribution": "torch.distributions.distribution.Distribution",
    "torch.distributions.MultivariateNormal": "torch.distributions.multivariate_normal.MultivariateNormal",
    "torch.distributions.register_kl": "torch.distributions.kl.register_kl",
    "torch.nn.modules.module.Module": "torch.nn.Module",
    "torch.optim.optimizer.Optimizer": "torch.optim.Optimizer",
}

# `make docs` is nitpicky: a reference that leads nowhere is an error. Annotations also name the classes of
# other libraries, not all of which are in the lists above, and insides of ours that have no page; what is public
# must be found.
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


def with_public_name(app, env, node, content):
    """Give a reference that leads nowhere the name that intersphinx, which comes next, may know."""
    node["reftarget"] = PUBLIC.get(node["reftarget"], node["reftarget"])


def setup(app):
    app.connect("missing-reference", with_public_name, priority=100)
    app.connect("autodoc-process-docstring", read_properties_as_methods, priority=400)
    app.connect("autodoc-process-signature", without_inherited_signature)
