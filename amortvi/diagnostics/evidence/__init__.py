"""The evidence of each observation by importance sampling, and how reliable the estimate is."""

from amortvi.diagnostics.evidence.evidence import Evidence, evidence

__all__ = ["Evidence", "evidence"]
