"""What Pyro says of one sample site."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from pyro.distributions import ExpandedDistribution, MaskedDistribution, Unit
from torch import Tensor
from torch.distributions import Independent

__all__ = [
    "Site",
    "frames",
    "is_data",
    "is_deterministic",
    "is_subsample",
    "is_weighted",
    "layers",
    "own_scale",
    "plates",
]

Site = Any
"""A sample message of Pyro, as a handler or a trace has it."""


def is_subsample(site: Site) -> bool:
    """Whether a sample message is the choice of rows that a plate makes, not a site of the model's own."""
    return type(site["fn"]).__name__ == "_Subsample"


def is_deterministic(site: Site) -> bool:
    """Whether a sample message is a ``pyro.deterministic``."""
    return bool(site["infer"].get("_deterministic"))


def is_data(site: Site) -> bool:
    """Whether the value of a sample message is given by the user: not a latent's, not one that is computed."""
    return bool(site["is_observed"]) and not is_deterministic(site) and not isinstance(site["fn"], Unit)


def frames(site: Site) -> Iterable[Any]:
    """Return the vectorized plates around a site, the innermost first."""
    return (frame for frame in site["cond_indep_stack"] if frame.vectorized)


def plates(sites: Iterable[Site]) -> dict[str, Any]:
    """Return the plates of some sites by name, loops among them."""
    return {frame.name: frame for site in sites for frame in site["cond_indep_stack"]}


def layers(distribution: Any) -> list[Any]:
    """Return a distribution and what it wraps, down to the one that has the density."""
    found = [distribution]
    while isinstance(found[-1], Independent | ExpandedDistribution | MaskedDistribution):
        found.append(found[-1].base_dist)
    return found


def own_scale(site: Site, plate: str) -> Any:
    """The site's scale without the data plate's: weights are for one observation, however it was subsampled."""
    for frame in site["cond_indep_stack"]:
        if frame.name == plate and frame.full_size != frame.size:
            return site["scale"] * frame.size / frame.full_size
    return site["scale"]


def is_weighted(site: Site, plate: str) -> bool:
    """Whether a site's log-probability is masked or scaled, beside what the data plate does for a subsample."""
    scale = own_scale(site, plate)
    return site["mask"] is not None or isinstance(scale, Tensor) or not math.isclose(scale, 1.0)
