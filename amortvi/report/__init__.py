"""Everything that is to be said of some fits, in one HTML file."""

from amortvi.report.report import report

__all__ = ["report"]
