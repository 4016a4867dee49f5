"""Refinement: the posterior of each observation, optimized individually from the encoder's output."""

from amortvi.posterior.refinement.refine import RefineMethod, RefineOptions, refine

__all__ = ["RefineMethod", "RefineOptions", "refine"]
