"""How good a posterior is, and whose fault it is if it is not: each takes what was fitted and returns a frozen result."""

from amortvi.diagnostics.annealing import (
    AnnealedEvidence,
    EvidenceBracket,
    annealed_evidence,
    bracket_evidence,
    reverse_annealed_evidence,
)
from amortvi.diagnostics.calibration import Calibration, CalibrationTest, calibrate, ecdf_band
from amortvi.diagnostics.collapse import LatentUsage, latent_usage
from amortvi.diagnostics.convergence import Convergence, convergence
from amortvi.diagnostics.diagnosis import Diagnosis, Fault, diagnose
from amortvi.diagnostics.distances import Distances, distances
from amortvi.diagnostics.evidence import Evidence, evidence
from amortvi.diagnostics.gaps import Gaps, Verdict, gaps
from amortvi.diagnostics.goodness import PredictiveCheck, predictive_check
from amortvi.diagnostics.proposals import DefensiveMixture, defensive
from amortvi.diagnostics.reference import Reference, reference
from amortvi.diagnostics.simulation import Simulated, Simulator, simulate_observations
from amortvi.diagnostics.two_samples import C2ST, c2st

__all__ = [
    "C2ST",
    "AnnealedEvidence",
    "Calibration",
    "CalibrationTest",
    "Convergence",
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
    "Verdict",
    "annealed_evidence",
    "bracket_evidence",
    "c2st",
    "calibrate",
    "convergence",
    "defensive",
    "diagnose",
    "distances",
    "ecdf_band",
    "evidence",
    "gaps",
    "latent_usage",
    "predictive_check",
    "reference",
    "reverse_annealed_evidence",
    "simulate_observations",
]
