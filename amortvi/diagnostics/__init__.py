"""How good a posterior is, and why it is not better. Each function takes a fitted estimator and returns a frozen result.

A new diagnostic is one file here, or in the folder of its subject, and one import below.
"""

from amortvi.diagnostics.annealing import AnnealedEvidence, EvidenceBracket, annealed_evidence, bracket_evidence
from amortvi.diagnostics.c2st import C2ST, c2st
from amortvi.diagnostics.calibration import Calibration, CalibrationTest, calibrate, ecdf_band
from amortvi.diagnostics.evidence import Evidence, evidence
from amortvi.diagnostics.gaps import DefensiveMixture, Diagnosis, Fault, Gaps, Verdict, defensive, diagnose, gaps
from amortvi.diagnostics.latents import CoordinateUsage, LatentUsage, latent_usage
from amortvi.diagnostics.missed_mass import MissedMass
from amortvi.diagnostics.predictive import CheckedStatistic, PredictiveCheck, predictive_check
from amortvi.diagnostics.reference import Distances, Reference, distances, reference
from amortvi.diagnostics.simulation import Simulated, Simulator, simulate_observations

__all__ = [
    "C2ST",
    "AnnealedEvidence",
    "Calibration",
    "CalibrationTest",
    "CheckedStatistic",
    "CoordinateUsage",
    "DefensiveMixture",
    "Diagnosis",
    "Distances",
    "Evidence",
    "EvidenceBracket",
    "Fault",
    "Gaps",
    "LatentUsage",
    "MissedMass",
    "PredictiveCheck",
    "Reference",
    "Simulated",
    "Simulator",
    "Verdict",
    "annealed_evidence",
    "bracket_evidence",
    "c2st",
    "calibrate",
    "defensive",
    "diagnose",
    "distances",
    "ecdf_band",
    "evidence",
    "gaps",
    "latent_usage",
    "predictive_check",
    "reference",
    "simulate_observations",
]
