"""Amortized variational inference for Pyro models.

An encoder network reads an observation and returns the parameters of its posterior ``q(z | x)``; the family of that
posterior is yours to choose, compare and study in ArviZ. Start with `AmortizedVI`.
"""

from amortvi import datasets, encoders, errors, families, models, objectives, plots, testing
from amortvi._version import __version__
from amortvi.comparison import compare
from amortvi.fitting import FamilyFits, FitArguments, fit_families
from amortvi.guide import AmortizedGuide
from amortvi.inference import AmortizedVI
from amortvi.posterior import Posterior
from amortvi.svi import SVI

__all__ = [
    "SVI",
    "AmortizedGuide",
    "AmortizedVI",
    "FamilyFits",
    "FitArguments",
    "Posterior",
    "__version__",
    "compare",
    "datasets",
    "encoders",
    "errors",
    "families",
    "fit_families",
    "models",
    "objectives",
    "plots",
    "testing",
]
