"""A report on fits and their posteriors, as one HTML file."""

from amortvi.plots.report.report import report

__all__ = ["report"]
