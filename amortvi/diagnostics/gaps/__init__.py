"""The inference gap of each observation, split between family and encoder, and what limits a fit."""

from amortvi.diagnostics.gaps.defensive import DefensiveMixture, defensive
from amortvi.diagnostics.gaps.diagnosis import Diagnosis, Fault, diagnose
from amortvi.diagnostics.gaps.gaps import Gaps, Verdict, gaps

__all__ = ["DefensiveMixture", "Diagnosis", "Fault", "Gaps", "Verdict", "defensive", "diagnose", "gaps"]
