"""Amortized variational inference for Pyro models.

An encoder network reads an observation and returns the parameters of its posterior ``q(z | x)``; the family of that
posterior is yours to choose, compare and study in ArviZ. Start with `AmortizedVI`.
"""

from amortvi import datasets, diagnostics, encoders, errors, families, importance, models, objectives, plots, testing
from amortvi._version import __version__
from amortvi.comparison import compare
from amortvi.diagnostics import (
    Calibration,
    Diagnosis,
    Evidence,
    Gaps,
    Reference,
    annealed_evidence,
    bracket_evidence,
    c2st,
    calibrate,
    convergence,
    diagnose,
    evidence,
    gaps,
    latent_usage,
    predictive_check,
    reference,
)
from amortvi.fitting import FamilyFits, FitArguments, fit_families
from amortvi.guide import AmortizedGuide
from amortvi.inference import AmortizedVI
from amortvi.posterior import Posterior
from amortvi.report import report
from amortvi.svi import SVI

__all__ = [
    "SVI",
    "AmortizedGuide",
    "AmortizedVI",
    "Calibration",
    "Diagnosis",
    "Evidence",
    "FamilyFits",
    "FitArguments",
    "Gaps",
    "Posterior",
    "Reference",
    "__version__",
    "annealed_evidence",
    "bracket_evidence",
    "c2st",
    "calibrate",
    "compare",
    "convergence",
    "datasets",
    "diagnose",
    "diagnostics",
    "encoders",
    "errors",
    "evidence",
    "families",
    "fit_families",
    "gaps",
    "importance",
    "latent_usage",
    "models",
    "objectives",
    "plots",
    "predictive_check",
    "reference",
    "report",
    "testing",
]
