"""Quantities that a distribution provides in closed form, through the interface of ``torch.distributions``.

Each function returns ``None`` if its distribution has no closed form. To provide one, implement ``mean``, ``variance`` or
``covariance_matrix``, or register a function with `torch.distributions.register_kl`, ``marginals.register`` or
``implausible.register``.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal, kl_divergence, register_kl

__all__ = ["StandardNormal", "covariance", "implausible", "kl_to_standard_normal", "marginals", "moments"]


class StandardNormal(Independent):  # type: ignore[type-arg]  # not generic at run time before torch 2.9
    """``N(0, I)`` with event shape ``(D,)``, as a separate type for `torch.distributions.register_kl`.

    Args:
        like: a tensor ``(..., D)`` that determines ``D``, the type and the device.
    """

    def __init__(self, like: Tensor) -> None:
        zeros = torch.zeros(like.shape[-1:], dtype=like.dtype, device=like.device)
        super().__init__(Normal(zeros, torch.ones_like(zeros), validate_args=False), 1, validate_args=False)


def kl_to_standard_normal(q: Distribution) -> Tensor | None:
    """Return ``KL(q || N(0, I))`` in nats, ``(*B,)``, or ``None``."""
    try:
        return kl_divergence(q, StandardNormal(q.mean))
    except NotImplementedError:  # the distribution has no mean, or no KL is registered for its type
        return None


def moments(q: Distribution) -> tuple[Tensor, Tensor] | None:
    """Return the mean and the variance of each coordinate, ``(*B, D)``, or ``None``."""
    try:
        return q.mean, q.variance
    except NotImplementedError:  # the distribution does not define them
        return None


def covariance(q: Distribution) -> Tensor | None:
    """Return the covariance, ``(*B, D, D)``, or ``None``."""
    found: Tensor | None = getattr(q, "covariance_matrix", None)
    if found is None and marginals(q) is not None and isinstance(q, Independent):
        return torch.diag_embed(q.variance)
    return found


@singledispatch
def marginals(q: Distribution) -> Distribution | None:
    """Return the distribution of each coordinate, batch shape ``(*B, D)`` and event shape ``()``, or ``None``."""
    return None


@marginals.register
def _(q: Independent) -> Distribution | None:  # type: ignore[type-arg]  # see StandardNormal
    return q.base_dist if q.reinterpreted_batch_ndims == 1 and not q.base_dist.event_shape else None


@marginals.register
def _(q: MultivariateNormal) -> Distribution:
    return Normal(q.mean, q.variance.sqrt(), validate_args=False)


@singledispatch
def implausible(q: Distribution) -> Tensor | None:
    """Return which distributions have parameters with which no posterior is plausible, ``(*B,)``, or ``None`` if that is unknown.

    Such a posterior says nothing about the latents: the encoder extrapolates, or it has diverged.
    """
    return None


@register_kl(MultivariateNormal, StandardNormal)  # type: ignore[untyped-decorator]  # PyTorch registers only pairs of one type
def _kl_multivariate_normal_standard_normal(q: MultivariateNormal, p: StandardNormal) -> Tensor:
    second_moment = (q.variance + q.mean.square()).sum(-1)
    log_det = q.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return 0.5 * (second_moment - q.event_shape[0]) - log_det
