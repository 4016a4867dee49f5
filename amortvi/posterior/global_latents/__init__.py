"""The posterior of the global latents, theta, which all observations share."""

from amortvi.posterior.global_latents.global_posterior import (
    GlobalDraw,
    GlobalGuideChoice,
    GlobalPosterior,
    check_guide,
    guide_label,
)
from amortvi.posterior.global_latents.point_mass import PointMass
from amortvi.posterior.global_latents.scope import private_pyro_scope

__all__ = [
    "GlobalDraw",
    "GlobalGuideChoice",
    "GlobalPosterior",
    "PointMass",
    "check_guide",
    "guide_label",
    "private_pyro_scope",
]
