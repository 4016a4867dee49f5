"""Whether a fit has converged, judged from its history."""

from amortvi.diagnostics.convergence.convergence import Convergence, convergence
from amortvi.diagnostics.convergence.trend import Trend

__all__ = ["Convergence", "Trend", "convergence"]
