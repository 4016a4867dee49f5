"""Importance weights: diagnostics of their reliability, Pareto smoothing, and resampling.

Every function takes the log weights of ``K`` draws of ``B`` observations, ``(K, B)``, and processes all observations at once.
The weights need not be normalized.
"""

from amortvi.importance.pareto import Smoothed, k_hat_threshold, pareto_smoothed
from amortvi.importance.resampling import resample
from amortvi.importance.weights import effective_sample_size

__all__ = ["Smoothed", "effective_sample_size", "k_hat_threshold", "pareto_smoothed", "resample"]
