"""The estimator: `AmortizedVI`."""

from amortvi.inference.estimator import AfterFit, AmortizedVI

__all__ = ["AfterFit", "AmortizedVI"]
