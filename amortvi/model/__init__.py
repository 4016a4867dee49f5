"""The generative model ``p(x, z)``: any Pyro model, whose structure is read once; and a library of ready-made models."""

from amortvi.model.latents import LatentSite, LatentVector
from amortvi.model.model import Model, SiteLogProbs, log_jacobian, sum_per_observation, sum_sites
from amortvi.model.priors import PriorRuns, priors_depend_on_latents
from amortvi.model.program import Program
from amortvi.model.row_independence import HOW_TO_SEPARATE_ROWS, check_row_independence, find_mixed_row
from amortvi.model.sites import Site
from amortvi.model.structure import ModelStructure

__all__ = [
    "HOW_TO_SEPARATE_ROWS",
    "LatentSite",
    "LatentVector",
    "Model",
    "ModelStructure",
    "PriorRuns",
    "Program",
    "Site",
    "SiteLogProbs",
    "check_row_independence",
    "find_mixed_row",
    "log_jacobian",
    "priors_depend_on_latents",
    "sum_per_observation",
    "sum_sites",
]
