"""Predictive checks: whether data drawn from the fitted model resemble the observed data."""

from amortvi.diagnostics.predictive.predictive_check import PredictiveCheck, predictive_check
from amortvi.diagnostics.predictive.site_check import CheckedStatistic

__all__ = ["CheckedStatistic", "PredictiveCheck", "predictive_check"]
