"""Pictures of results, with matplotlib (extra ``plots``).

Each function takes a result and an ``ax``, draws on it and returns it; without ``ax`` it makes a figure. None of them
changes a setting of matplotlib or computes more than it draws. matplotlib is imported at the first call, not before.
"""

from amortvi.plots.comparison import plot_comparison
from amortvi.plots.correlation import plot_correlation
from amortvi.plots.history import plot_history
from amortvi.plots.images import plot_images
from amortvi.plots.latent_map import plot_latent_map
from amortvi.plots.reconstructions import plot_reconstructions

__all__ = [
    "plot_comparison",
    "plot_correlation",
    "plot_history",
    "plot_images",
    "plot_latent_map",
    "plot_reconstructions",
]
