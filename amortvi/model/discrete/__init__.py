"""Discrete latents inside the data plate: enumerated in parallel, and summed out exactly for each observation."""

from amortvi.model.discrete.consistency import check_enumeration
from amortvi.model.discrete.enumeration import enumerated
from amortvi.model.discrete.factor_graph import FactorGroup, factor_groups
from amortvi.model.discrete.partly_observed import complete_values, observed_part, partly_observed, unobserved_part
from amortvi.model.discrete.requirements import check_enumerable, check_inside
from amortvi.model.discrete.sites import DiscreteSite

__all__ = [
    "DiscreteSite",
    "FactorGroup",
    "check_enumerable",
    "check_enumeration",
    "check_inside",
    "complete_values",
    "enumerated",
    "factor_groups",
    "observed_part",
    "partly_observed",
    "unobserved_part",
]
