"""Posterior families ``q(z | x)``: maps from the context of an observation to the distribution of its latent vector.

A new family needs one file here, one import below, one row in ``tests/families/cases.py`` and, to be chosen by name, an entry
in `NAMED`.
"""

from amortvi.families.base import Family, ParametricFamily, require_parametric
from amortvi.families.choice import NAMED, FamilyChoice, family_label, make_family, resolve_family
from amortvi.families.closed_forms import (
    StandardNormal,
    covariance,
    implausible,
    kl_to_standard_normal,
    marginals,
    moments,
)
from amortvi.families.diagonal import Diagonal
from amortvi.families.flow import Flow
from amortvi.families.full_covariance import FullCovariance
from amortvi.families.gaussian import Gaussian, GaussianFamily, ScaleOperator
from amortvi.families.low_rank import LowRank

__all__ = [
    "NAMED",
    "Diagonal",
    "Family",
    "FamilyChoice",
    "Flow",
    "FullCovariance",
    "Gaussian",
    "GaussianFamily",
    "LowRank",
    "ParametricFamily",
    "ScaleOperator",
    "StandardNormal",
    "covariance",
    "family_label",
    "implausible",
    "kl_to_standard_normal",
    "make_family",
    "marginals",
    "moments",
    "require_parametric",
    "resolve_family",
]
