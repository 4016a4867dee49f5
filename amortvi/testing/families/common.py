"""Families, contexts and comparisons that the checks of families share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi.families import Family, FamilyChoice, make_family

__all__ = ["CONTEXT_FEATURES", "DRAWS", "STANDARD_ERRORS", "assert_mean", "contexts", "perturbed", "posterior"]

CONTEXT_FEATURES = 5
DRAWS = 50_000
STANDARD_ERRORS = 5.0
"""A standard normal variable exceeds five in absolute value less than once in a million times."""


def perturbed(choice: FamilyChoice, dim: int, dtype: torch.dtype = torch.float64) -> Family:
    """Return the chosen family, set up for ``dim`` latents, with random parameters instead of the initial ones."""
    family = make_family(choice, dim, CONTEXT_FEATURES).to(dtype)
    with torch.no_grad():
        for parameter in family.parameters():
            # The outputs of every layer have about the same scale, regardless of its width.
            fan_in = parameter[0].numel() if parameter.dim() > 1 else CONTEXT_FEATURES
            parameter.normal_(0.0, 0.9 / fan_in**0.5)
    return family


def contexts(*batch_shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Return random contexts, ``(*batch_shape, C)``."""
    return torch.randn(*batch_shape, CONTEXT_FEATURES, dtype=dtype)


def posterior(choice: FamilyChoice, dim: int) -> Distribution:
    """Return the posteriors of three random contexts, without gradients."""
    return perturbed(choice, dim).requires_grad_(False)(contexts(3))


def assert_mean(estimates: Tensor, expected: Tensor, what: str) -> None:
    """Check that the mean of independent ``estimates`` over dimension 0 is ``expected``, within Monte Carlo error."""
    error = (estimates.mean(0) - expected).abs()
    allowed = STANDARD_ERRORS * estimates.std(0) / estimates.shape[0] ** 0.5 + 1e-9
    assert bool((error <= allowed).all()), f"{what} is off by {error.max():.3g}, beyond Monte Carlo error"
