"""How good a posterior is, and why it is not better. Each function takes a fitted estimator and returns a frozen result.

A new diagnostic is one file here, or in the folder of its subject, and one import below. Functions that share their name with
a module, such as ``evidence``, are imported from the top of the package: ``amortvi.evidence``.
"""

from amortvi.diagnostics.annealing import AnnealedEvidence, EvidenceBracket, annealed_evidence, bracket_evidence
from amortvi.diagnostics.c2st import C2ST
from amortvi.diagnostics.calibration import Calibration, CalibrationTest, calibrate, ecdf_band
from amortvi.diagnostics.convergence import Convergence, Trend
from amortvi.diagnostics.evidence import Evidence
from amortvi.diagnostics.gaps import DefensiveMixture, Diagnosis, Fault, Gaps, Verdict, defensive, diagnose
from amortvi.diagnostics.latents import CoordinateUsage, LatentUsage, latent_usage
from amortvi.diagnostics.predictive import CheckedStatistic, PredictiveCheck, predictive_check
from amortvi.diagnostics.reference import Distances, Reference, distances
from amortvi.diagnostics.simulation import Simulated, Simulator, simulate_observations

__all__ = [
    "C2ST",
    "AnnealedEvidence",
    "Calibration",
    "CalibrationTest",
    "CheckedStatistic",
    "Convergence",
    "CoordinateUsage",
    "DefensiveMixture",
    "Diagnosis",
    "Distances",
    "Evidence",
    "EvidenceBracket",
    "Fault",
    "Gaps",
    "LatentUsage",
    "PredictiveCheck",
    "Reference",
    "Simulated",
    "Simulator",
    "Trend",
    "Verdict",
    "annealed_evidence",
    "bracket_evidence",
    "calibrate",
    "defensive",
    "diagnose",
    "distances",
    "ecdf_band",
    "latent_usage",
    "predictive_check",
    "simulate_observations",
]
