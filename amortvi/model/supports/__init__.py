"""Supports of latent sites, and the bijections from unconstrained numbers to them."""

from amortvi.model.supports.bijections import bijection
from amortvi.model.supports.constraints import (
    common_support,
    fixed_global_support,
    fixed_support,
    has_bijection,
    has_tensor_bounds,
    inner_support,
    same_bounds,
    tensor_bounds,
)
from amortvi.model.supports.transformed import support_of

__all__ = [
    "bijection",
    "common_support",
    "fixed_global_support",
    "fixed_support",
    "has_bijection",
    "has_tensor_bounds",
    "inner_support",
    "same_bounds",
    "support_of",
    "tensor_bounds",
]
