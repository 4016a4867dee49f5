"""Annealed importance sampling: the evidence without trust in the posterior family, bracketed on simulated data."""

from amortvi.diagnostics.annealing.annealed_evidence import (
    AnnealedEvidence,
    annealed_evidence,
    reverse_annealed_evidence,
)
from amortvi.diagnostics.annealing.bracket import EvidenceBracket, bracket_evidence

__all__ = [
    "AnnealedEvidence",
    "EvidenceBracket",
    "annealed_evidence",
    "bracket_evidence",
    "reverse_annealed_evidence",
]
