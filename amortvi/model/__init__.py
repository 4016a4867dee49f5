"""The generative model ``p(x, z)``: any Pyro model, whose structure is read once; and a library of ready-made models."""

from amortvi.model.global_sites import GlobalSite, draw_spans
from amortvi.model.latents import LatentSite, LatentVector
from amortvi.model.model import Model
from amortvi.model.priors import PriorRuns, priors_depend_on_latents, sample_globals
from amortvi.model.program import Program
from amortvi.model.row_independence import HOW_TO_SEPARATE_ROWS, check_row_independence, find_mixed_row
from amortvi.model.site_log_probs import SiteLogProbs, log_jacobian, sum_per_observation, sum_sites
from amortvi.model.sites import Site
from amortvi.model.structure import ModelStructure

__all__ = [
    "HOW_TO_SEPARATE_ROWS",
    "GlobalSite",
    "LatentSite",
    "LatentVector",
    "Model",
    "ModelStructure",
    "PriorRuns",
    "Program",
    "Site",
    "SiteLogProbs",
    "check_row_independence",
    "draw_spans",
    "find_mixed_row",
    "log_jacobian",
    "priors_depend_on_latents",
    "sample_globals",
    "sum_per_observation",
    "sum_sites",
]
