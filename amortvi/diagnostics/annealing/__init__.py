"""Annealed importance sampling: the evidence for any posterior family, and lower and upper bounds on simulated data."""

from amortvi.diagnostics.annealing.annealed_evidence import AnnealedEvidence, annealed_evidence
from amortvi.diagnostics.annealing.bracket import EvidenceBracket, bracket_evidence

__all__ = ["AnnealedEvidence", "EvidenceBracket", "annealed_evidence", "bracket_evidence"]
