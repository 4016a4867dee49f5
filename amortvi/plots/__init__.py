"""Pictures of results, with matplotlib (extra ``plots``).

Each function takes a result and an ``ax``, draws on it and returns it; without ``ax`` it makes a figure. None of them
changes a setting of matplotlib or computes more than it draws. matplotlib is imported at the first call, not before.
"""

from amortvi.plots.calibration import plot_coverage, plot_rank_histogram, plot_ranks
from amortvi.plots.collapse import plot_aggregate_posterior, plot_latent_usage
from amortvi.plots.comparison import plot_comparison
from amortvi.plots.correlation import plot_correlation
from amortvi.plots.evidence import plot_k_hat
from amortvi.plots.gaps import plot_gaps
from amortvi.plots.goodness import plot_predictive_check
from amortvi.plots.history import plot_history
from amortvi.plots.images import plot_images
from amortvi.plots.latent_map import plot_latent_map
from amortvi.plots.reconstructions import plot_reconstructions
from amortvi.plots.reference import plot_reference

__all__ = [
    "plot_aggregate_posterior",
    "plot_comparison",
    "plot_correlation",
    "plot_coverage",
    "plot_gaps",
    "plot_history",
    "plot_images",
    "plot_k_hat",
    "plot_latent_map",
    "plot_latent_usage",
    "plot_predictive_check",
    "plot_rank_histogram",
    "plot_ranks",
    "plot_reconstructions",
    "plot_reference",
]
