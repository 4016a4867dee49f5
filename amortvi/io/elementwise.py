"""The log-probability of each element of an observed site, as far as the model makes its elements independent."""

from __future__ import annotations

from typing import Any

from pyro.distributions import ExpandedDistribution, MaskedDistribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import Independent

from amortvi.model import Site
from amortvi.model.plates import PlateLayout

__all__ = ["elementwise_log_prob"]


def elementwise_log_prob(site: Site, plate: str, observations: int) -> Tensor:
    """Return the log-probabilities of the elements of an observed site inside the data plate.

    The elements are those of nested plates and of ``to_event``. A distribution that is multivariate in itself has one
    log-probability for the dimensions of its event. The sum over all elements is the log-probability of the observation.

    Args:
        site: the site, in a run of the model.
        plate: the data plate.
        observations: the number of observations in the run.

    Returns:
        ``(observations, *nested, *event)``, without the dimensions of multivariate events; zero where the site is masked.
    """
    distribution, scale = site.distribution, site.own_scale(plate)
    found = _elements(distribution, site.scored_value)
    extra = found.dim() - len(distribution.batch_shape)
    found = scale_and_mask(found, _widened(scale, extra), _widened(site.message["mask"], extra))
    layout = site.layout(plate)
    found = PlateLayout(layout.dim, layout.nested, extra).to_observations(found)
    return found.expand(observations, *layout.nested_shape, *found.shape[1 + len(layout.nested) :])


def _elements(distribution: Any, value: Tensor) -> Tensor:
    """Return log-probabilities, ``(*batch, *independent)``."""
    if not isinstance(distribution, Independent | ExpandedDistribution | MaskedDistribution):
        found = distribution.log_prob(value)
        return found.expand(distribution.batch_shape) if distribution.batch_shape else found
    found = _elements(distribution.base_dist, value)
    if isinstance(distribution, Independent):
        return found
    extra = found.dim() - len(distribution.base_dist.batch_shape)
    found = found.expand(*distribution.batch_shape, *found.shape[found.dim() - extra :])
    mask = distribution._mask if isinstance(distribution, MaskedDistribution) else None
    return scale_and_mask(found, mask=_widened(mask, extra))


def _widened(factor: Any, dims: int) -> Any:
    """Give a scale or a mask, of the shape of a batch, as many dimensions to its right."""
    return factor.reshape(factor.shape + (1,) * dims) if isinstance(factor, Tensor) else factor
