"""TEMPORARY during the restructuring: lazy exports, so that one unfinished part does not break the others."""

import importlib

_HOMES = {
    "annealing": ["AnnealedEvidence", "EvidenceBracket", "annealed_evidence", "bracket_evidence"],
    "c2st": ["C2ST", "c2st"],
    "calibration": ["Calibration", "CalibrationTest", "calibrate", "ecdf_band"],
    "convergence": ["Convergence", "convergence"],
    "evidence": ["Evidence", "evidence"],
    "gaps": ["DefensiveMixture", "Diagnosis", "Fault", "Gaps", "Verdict", "defensive", "diagnose", "gaps"],
    "latents": ["LatentUsage", "latent_usage", "warn_of_inactive_latents"],
    "predictive": ["PredictiveCheck", "predictive_check"],
    "reference": ["Distances", "Reference", "distances", "reference"],
    "simulation": ["Simulated", "Simulator", "simulate_observations"],
}


def __getattr__(name):
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"amortvi.diagnostics.{home}"), name)
    raise AttributeError(name)
