"""Amortized variational inference for Pyro models.

An encoder network reads an observation and returns the parameters of its posterior ``q(z | x)``. Choose the family of that
posterior, compare families, and study the result in ArviZ. Start with `AmortizedVI`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from amortvi import encoders, errors, families, importance, objectives
from amortvi._util import __version__
from amortvi.data import Observations, Padded, datasets, mask_missing, pad
from amortvi.inference import AmortizedVI
from amortvi.model import library as models
from amortvi.posterior import AmortizedGuide, Labels, Posterior
from amortvi.training import FitOptions, callbacks

if TYPE_CHECKING:
    from amortvi import diagnostics, plots, testing
    from amortvi.comparison import FamilyFits, compare, fit_families
    from amortvi.compile import svi
    from amortvi.compile.svi import SVI
    from amortvi.diagnostics.annealing import annealed_evidence, bracket_evidence
    from amortvi.diagnostics.c2st import c2st
    from amortvi.diagnostics.calibration import Calibration, calibrate
    from amortvi.diagnostics.evidence import Evidence, evidence
    from amortvi.diagnostics.gaps import Diagnosis, Gaps, diagnose, gaps
    from amortvi.diagnostics.latents import latent_usage
    from amortvi.diagnostics.predictive import predictive_check
    from amortvi.diagnostics.reference import Reference, reference
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
    "Labels",
    "Padded",
    "Posterior",
    "Reference",
    "__version__",
    "annealed_evidence",
    "bracket_evidence",
    "c2st",
    "calibrate",
    "callbacks",
    "compare",
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
    "mask_missing",
    "models",
    "objectives",
    "pad",
    "plots",
    "predictive_check",
    "reference",
    "report",
    "svi",
    "testing",
]

# Imported at first use, because a fit needs none of them: each name with the module that defines it.
_LAZY = {
    "SVI": "amortvi.compile.svi.svi",
    "Calibration": "amortvi.diagnostics.calibration.result",
    "Diagnosis": "amortvi.diagnostics.gaps.diagnosis",
    "Evidence": "amortvi.diagnostics.evidence",
    "FamilyFits": "amortvi.comparison.fits",
    "Gaps": "amortvi.diagnostics.gaps.gaps",
    "Reference": "amortvi.diagnostics.reference.reference",
    "annealed_evidence": "amortvi.diagnostics.annealing.annealed_evidence",
    "bracket_evidence": "amortvi.diagnostics.annealing.bracket",
    "c2st": "amortvi.diagnostics.c2st",
    "calibrate": "amortvi.diagnostics.calibration.calibrate",
    "compare": "amortvi.comparison.compare",
    "diagnose": "amortvi.diagnostics.gaps.diagnosis",
    "evidence": "amortvi.diagnostics.evidence",
    "fit_families": "amortvi.comparison.fits",
    "gaps": "amortvi.diagnostics.gaps.gaps",
    "latent_usage": "amortvi.diagnostics.latents.latent_usage",
    "predictive_check": "amortvi.diagnostics.predictive.predictive_check",
    "reference": "amortvi.diagnostics.reference.reference",
    "report": "amortvi.plots.report.report",
}
_LAZY_MODULES = {name: f"amortvi.{name}" for name in ("diagnostics", "plots", "testing")} | {
    "svi": "amortvi.compile.svi"
}


def __getattr__(name: str) -> Any:
    if name in _LAZY_MODULES:
        return importlib.import_module(_LAZY_MODULES[name])
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'amortvi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__


def _warn_of_inactive_latents(vi: AmortizedVI, x: Observations, options: FitOptions) -> None:
    from amortvi.diagnostics.latents.coordinates import warn_of_inactive_latents  # at first use, as above

    warn_of_inactive_latents(vi, x, options)


AmortizedVI.after_fit.append(_warn_of_inactive_latents)
