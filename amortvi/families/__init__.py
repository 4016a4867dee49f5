"""Posterior families ``q(z | x)``: maps from the context of an observation to the distribution of its latent vector.

A new family needs one file here, one import below, one row in ``tests/families/cases.py`` and, to be chosen by name, an entry
in `NAMED`.
"""

from amortvi.families.base import Family, ParametricFamily, require_parametric
from amortvi.families.by_site import Structured, TopDown
from amortvi.families.choice import NAMED, FamilyChoice, family_label, make_family, resolve_family
from amortvi.families.closed_forms import (
    StandardNormal,
    covariance,
    implausible,
    kl_to_standard_normal,
    marginals,
    moments,
)
from amortvi.families.draws import Draws, TransformedNoise, draw, has_fast_density
from amortvi.families.flow import Flow
from amortvi.families.gaussians import (
    Banded,
    Diagonal,
    FullCovariance,
    Gaussian,
    GaussianFamily,
    LowRank,
    ScaleOperator,
)
from amortvi.families.given_label import GivenLabel
from amortvi.families.mixture import Mixture
from amortvi.families.student_t import StudentT
from amortvi.families.wrapped import WrappedFamily

NAMED.update(
    banded=Banded,
    diagonal=Diagonal,
    flow=Flow,
    full=FullCovariance,
    low_rank=LowRank,
    mixture=Mixture,
    structured=Structured,
    student_t=StudentT,
    top_down=TopDown,
)

__all__ = [
    "NAMED",
    "Banded",
    "Diagonal",
    "Draws",
    "Family",
    "FamilyChoice",
    "Flow",
    "FullCovariance",
    "Gaussian",
    "GaussianFamily",
    "GivenLabel",
    "LowRank",
    "Mixture",
    "ParametricFamily",
    "ScaleOperator",
    "StandardNormal",
    "Structured",
    "StudentT",
    "TopDown",
    "TransformedNoise",
    "WrappedFamily",
    "covariance",
    "draw",
    "family_label",
    "has_fast_density",
    "implausible",
    "kl_to_standard_normal",
    "make_family",
    "marginals",
    "moments",
    "require_parametric",
    "resolve_family",
]
