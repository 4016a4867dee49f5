"""Hypothesis strategies for plate layouts and latent sites."""

from typing import Any

import torch
from hypothesis import strategies as st
from pyro.distributions import constraints

from amortvi.model.latents import LatentSite, LatentVector
from amortvi.model.plates import NestedPlate, PlateLayout

SIZES = st.integers(1, 3)


@st.composite
def layouts(draw: Any, event_dim: int = 0, max_nested: int = 3) -> PlateLayout:
    """Return a layout with any dimensions and any order of nesting."""
    dims = draw(st.lists(st.integers(-4, -1), unique=True, min_size=1, max_size=1 + max_nested))
    nested = tuple(NestedPlate(f"plate{dim}", dim, draw(SIZES)) for dim in dims[1:])
    return PlateLayout(dims[0], nested, event_dim)


SUPPORTS: dict[str, tuple[constraints.Constraint, torch.Size]] = {
    "real": (constraints.real, torch.Size([])),
    "real vector": (constraints.real, torch.Size([3])),
    "positive": (constraints.positive, torch.Size([2])),
    "interval": (constraints.interval(-1.0, torch.tensor([2.0, 3.0], dtype=torch.float64)), torch.Size([2])),
    "greater than": (constraints.greater_than(1.5), torch.Size([])),
    "less than": (constraints.less_than(-0.5), torch.Size([])),
    "unit interval": (constraints.unit_interval, torch.Size([1, 2])),
    "simplex": (constraints.simplex, torch.Size([4])),
    "correlation": (constraints.corr_cholesky, torch.Size([3, 3])),
    "ordered": (constraints.ordered_vector, torch.Size([3])),
    "positive and ordered": (constraints.positive_ordered_vector, torch.Size([2])),
}
"""Supports with the shape of one value."""


@st.composite
def latent_sites(draw: Any, name: str) -> LatentSite:
    """Return a site with any of the supports inside any nested plates."""
    support, event_shape = SUPPORTS[draw(st.sampled_from(sorted(SUPPORTS)))]
    return LatentSite(name, draw(layouts(len(event_shape), max_nested=2)), event_shape, support)


@st.composite
def latent_vectors(draw: Any) -> LatentVector:
    """Return the vector of one to three sites."""
    return LatentVector([draw(latent_sites(f"site{i}")) for i in range(draw(st.integers(1, 3)))])
