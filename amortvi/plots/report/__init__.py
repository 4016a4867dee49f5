"""Everything that is to be said of some fits, in one HTML file."""

from amortvi.plots.report.report import report

__all__ = ["report"]
