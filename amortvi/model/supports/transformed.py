"""The support of a transformed distribution, which is the image of the support of its base."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import (
    Independent,
    MixtureSameFamily,
    Transform,
    TransformedDistribution,
    constraints,
)

from amortvi.errors import ModelError
from amortvi.model.supports.constraints import inner_support

__all__ = ["support_of"]


def support_of(name: str, distribution: Any) -> Any:
    """Return the support of a distribution.

    For a `TransformedDistribution`, PyTorch returns all values of the last transform: the real line for a shifted exponential
    distribution, where its density is not zero but keeps rising beyond the bound.

    Raises:
        ModelError: the support of a transformed distribution is unknown.

    Example:
        >>> from torch.distributions import AffineTransform, Exponential, TransformedDistribution
        >>> support_of("z", TransformedDistribution(Exponential(1.0), [AffineTransform(1.5, 2.0)]))
        GreaterThan(lower_bound=1.5)
    """
    inside: Any = getattr(distribution, "base_dist", None)
    if type(distribution).support is TransformedDistribution.support:  # subclasses that know their support override it
        support = inner_support(support_of(name, inside))
        for transform in distribution.transforms:
            support = _image(name, support, transform)
        return _with_event_dim(support, len(distribution.event_shape))
    if isinstance(distribution, MixtureSameFamily):
        return constraints.MixtureSameFamilyConstraint(support_of(name, distribution.component_distribution))
    if isinstance(distribution, Independent):
        found, given = support_of(name, inside), inside.support
        return distribution.support if found is given else _with_event_dim(found, len(distribution.event_shape))
    is_wrapper = inside is not None and not isinstance(distribution, TransformedDistribution)
    return support_of(name, inside) if is_wrapper else distribution.support


def _with_event_dim(support: Any, event_dim: int) -> Any:
    missing = event_dim - support.event_dim
    return constraints.independent(support, missing) if missing > 0 else support


def _image(name: str, support: Any, transform: Transform) -> Any:
    """Return the values of a transform of the values in ``support``, without wrappers."""
    domain, bounds = inner_support(transform.domain), _bounds(support)
    is_whole = (
        _equal(bounds, _bounds(domain))
        if _is_interval(support)
        else type(support) is type(domain) and not vars(support)
    )
    if is_whole:  # rounding would only turn infinite bounds of the image into finite ones
        return inner_support(transform.codomain)
    is_elementwise = transform.bijective and transform.domain.event_dim == 0
    if support.is_discrete or support.event_dim or not is_elementwise or not _is_interval(support):
        raise ModelError(
            f"the support of latent site {name!r} is unknown: {type(transform).__name__} of values in {support}. Sample the site "
            f"without the transform, and apply it to the value in the model."
        )
    ends = [transform(torch.as_tensor(bound)) for bound in bounds]
    lower, upper = torch.minimum(*ends), torch.maximum(*ends)
    if not (_all_or_none_finite(lower) and _all_or_none_finite(upper)):
        raise ModelError(
            f"the support of latent site {name!r} is bounded on different sides for different values: sample a site with one "
            f"support, and shift and scale it in the model."
        )
    if not lower.isfinite().any():
        return constraints.less_than(_number(upper)) if upper.isfinite().any() else constraints.real
    if upper.isfinite().any():
        return constraints.interval(_number(lower), _number(upper))
    return constraints.greater_than(_number(lower))


def _bounds(support: Any) -> list[Any]:
    return [getattr(support, f"{side}_bound", sign * math.inf) for side, sign in (("lower", -1), ("upper", 1))]


def _equal(bounds: list[Any], others: list[Any]) -> bool:
    return all(bool((torch.as_tensor(a) == torch.as_tensor(b)).all()) for a, b in zip(bounds, others, strict=True))


def _is_interval(support: Any) -> bool:
    return hasattr(support, "lower_bound") or hasattr(support, "upper_bound")


def _all_or_none_finite(bound: Tensor) -> bool:
    finite = bound.isfinite()
    return bool(finite.all()) or not bool(finite.any())


def _number(bound: Tensor) -> Any:
    """Return a bound as a number if it is one, because a number needs no device."""
    return bound.item() if bound.dim() == 0 and not bound.requires_grad else bound
