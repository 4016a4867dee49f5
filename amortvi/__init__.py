"""Amortized variational inference for Pyro models.

An encoder network reads an observation and returns the parameters of its posterior ``q(z | x)``. Choose the family of that
posterior, compare families, and study the result in ArviZ. Start with `AmortizedVI`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from amortvi import encoders, errors, families, importance, objectives
from amortvi._util.version import __version__
from amortvi.data import Observations, datasets
from amortvi.inference import AmortizedVI
from amortvi.model import library as models
from amortvi.posterior import AmortizedGuide, Posterior
from amortvi.training import FitOptions

if TYPE_CHECKING:
    from amortvi import diagnostics, plots, testing
    from amortvi.comparison import FamilyFits, compare, fit_families
    from amortvi.compile import svi
    from amortvi.compile.svi import SVI
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
    from amortvi.plots.report import report

__all__ = [
    "SVI",
    "AmortizedGuide",
    "AmortizedVI",
    "Calibration",
    "Diagnosis",
    "Evidence",
    "FamilyFits",
    "FitOptions",
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
    "svi",
    "testing",
]

# Imported at their first use: a fit needs none of them, and together they would double the time that the import takes.
_LAZY = {
    "SVI": "amortvi.compile.svi",
    "report": "amortvi.plots.report",
    "svi": "amortvi.compile",
    **dict.fromkeys(("FamilyFits", "compare", "fit_families"), "amortvi.comparison"),
    **dict.fromkeys(("diagnostics", "plots", "testing"), "amortvi"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'amortvi' has no attribute {name!r}")
    home = _LAZY.get(name, "amortvi.diagnostics")
    if home == "amortvi" or name == "svi":
        return importlib.import_module(f"{home}.{name}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__


def _warn_of_inactive_latents(vi: AmortizedVI, x: Observations, options: FitOptions) -> None:
    from amortvi.diagnostics.latents import warn_of_inactive_latents

    warn_of_inactive_latents(vi, x, options)


# AmortizedVI.after_fit.append(_warn_of_inactive_latents)
