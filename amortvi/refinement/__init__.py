"""The best posterior of a family for each observation by itself, starting from the encoder's answer."""

from amortvi.refinement.refine import Refinement, RefineMethod, refine

__all__ = ["RefineMethod", "Refinement", "refine"]
