"""Importance weights: how far draws from a posterior are to be trusted as draws from the exact one, and their correction.

Everything takes the log weights of ``K`` draws of ``B`` observations, ``(K, B)``, and treats all observations at once. The
weights need not be normalised.
"""

from amortvi.importance.pareto import Smoothed, k_hat_threshold, pareto_smoothed
from amortvi.importance.resampling import resample
from amortvi.importance.weights import effective_sample_size

__all__ = ["Smoothed", "effective_sample_size", "k_hat_threshold", "pareto_smoothed", "resample"]
