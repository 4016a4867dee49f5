"""Figures of results, drawn with matplotlib (extra ``plots``).

Each function takes a result, or a fitted estimator and observations, from which it computes the result with the options that are
passed on. It draws the result on the Axes ``ax``, or on those of a new figure, and returns them. The functions change no setting
of matplotlib, which is imported at the first call.
"""

from amortvi.plots.calibration import plot_coverage, plot_rank_histogram, plot_ranks
from amortvi.plots.comparison import plot_comparison
from amortvi.plots.correlation import plot_correlation
from amortvi.plots.gaps import plot_gaps
from amortvi.plots.images import plot_images, plot_reconstructions
from amortvi.plots.k_hat import plot_k_hat
from amortvi.plots.latent_usage import plot_aggregate_posterior, plot_latent_usage
from amortvi.plots.latents import plot_latents
from amortvi.plots.predictive_check import plot_predictive_check
from amortvi.plots.reference import plot_reference
from amortvi.plots.training import plot_training

__all__ = [
    "plot_aggregate_posterior",
    "plot_comparison",
    "plot_correlation",
    "plot_coverage",
    "plot_gaps",
    "plot_images",
    "plot_k_hat",
    "plot_latent_usage",
    "plot_latents",
    "plot_predictive_check",
    "plot_rank_histogram",
    "plot_ranks",
    "plot_reconstructions",
    "plot_reference",
    "plot_training",
]
