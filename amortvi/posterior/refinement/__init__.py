"""Refinement: the best posterior of a family for each observation, starting from the encoder's output."""

from amortvi.posterior.refinement.refine import RefineMethod, RefineOptions, refine

__all__ = ["RefineMethod", "RefineOptions", "refine"]
