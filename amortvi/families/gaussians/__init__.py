"""Gaussian families: a location and a structured square root of the covariance."""

from amortvi.families.gaussians.banded import Banded
from amortvi.families.gaussians.diagonal import Diagonal
from amortvi.families.gaussians.full_covariance import FullCovariance
from amortvi.families.gaussians.gaussian import Gaussian, GaussianFamily, ScaleOperator
from amortvi.families.gaussians.low_rank import LowRank

__all__ = ["Banded", "Diagonal", "FullCovariance", "Gaussian", "GaussianFamily", "LowRank", "ScaleOperator"]
