"""The distribution of a vector whose parts are independent."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence, register_kl
from torch.types import _size

from amortvi.families.closed_forms import StandardNormal, covariance, implausible, marginals
from amortvi.families.draws import Draws, TransformedNoise, has_fast_density

__all__ = ["ProductDistribution", "ProductMarginals"]


class ProductDistribution(TransformedNoise):
    """Independent distributions of consecutive parts of a vector.

    Args:
        parts: distributions with the same batch shape ``*B``, event shapes ``(D_1,)``, ``(D_2,)``, ...
    """

    def __init__(self, parts: Sequence[TransformedNoise]) -> None:
        super().__init__(torch.cat([part.loc for part in parts], dim=-1))
        self.parts = tuple(parts)
        self.has_rsample = all(part.has_rsample for part in parts)
        self._dims = [part.event_shape[0] for part in parts]

    def expand(self, batch_shape: _size, _instance: None = None) -> ProductDistribution:
        """Return the same distributions with batch shape ``batch_shape``."""
        return ProductDistribution([part.expand(batch_shape) for part in self.parts])

    @property
    def noise_dim(self) -> int:
        return sum(part.noise_dim for part in self.parts)

    def from_noise(self, noise: Tensor) -> Draws:
        """Return draws of all parts; parts that are mixtures are combined in every possible way."""
        sizes = [part.noise_dim for part in self.parts]
        drawn = [part.from_noise(own) for part, own in zip(self.parts, noise.split(sizes, dim=-1), strict=True)]
        if self.has_rsample:
            values = [part.vector for part in drawn]
            vector = torch.cat(values, dim=-1)
            self.remember(vector, values)
            return Draws(vector)
        return functools.reduce(functools.partial(_cross, len(noise)), drawn)

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw independently, without gradients, shape ``(*sample_shape, *B, D)``."""
        with torch.no_grad():
            values = [part.sample(torch.Size(sample_shape)) for part in self.parts]
            vector = torch.cat(values, dim=-1)
            self.remember(vector, values)
        return vector

    def log_prob(self, value: Tensor) -> Tensor:
        """Return ``log q(value)``, shape ``value.shape[:-1]``."""
        values = self.recall(value)
        if values is None:
            values = list(value.split(self._dims, dim=-1))
        return torch.stack([part.log_prob(own) for part, own in zip(self.parts, values, strict=True)]).sum(0)

    @property
    def mean(self) -> Tensor:
        """The mean, ``(*B, D)``."""
        return torch.cat([part.mean for part in self.parts], dim=-1)

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, ``(*B, D)``."""
        return torch.cat([part.variance for part in self.parts], dim=-1)

    @property
    def covariance_matrix(self) -> Tensor | None:
        """The covariance, ``(*B, D, D)``, if those of the parts are known."""
        blocks = [covariance(part) for part in self.parts]
        known = [block for block in blocks if block is not None]
        if len(known) < len(blocks):
            return None
        rows, before = [], 0
        for block, dim in zip(known, self._dims, strict=True):
            after = self.event_shape[0] - before - dim
            rows.append(F.pad(block, (before, after)))
            before += dim
        return torch.cat(rows, dim=-2)

    def entropy(self) -> Tensor:
        """Return the entropy in nats, shape ``(*B,)``."""
        return torch.stack([part.entropy() for part in self.parts]).sum(0)


def _cross(noises: int, draws: Draws, part: Draws) -> Draws:
    """Combine each of the ``M`` strata of ``draws``, ``(M K, *B, d)``, with each of the ``L`` of ``part``, ``(L K, *B, e)``.

    ``K`` is the number of noises; draws of the same noise belong together. The result has shape ``(L M K, *B, d + e)``.
    """
    inner, outer = draws.vector.unflatten(0, (-1, noises)), part.vector.unflatten(0, (-1, noises)).unsqueeze(1)
    shape = (len(outer), *inner.shape[:-1])
    vector = torch.cat([inner.expand(*shape, -1), outer.expand(*shape, -1)], dim=-1)
    shares = []
    if draws.log_share is not None:
        shares.append(draws.log_share.unflatten(0, (-1, noises)).expand(shape))
    if part.log_share is not None:
        shares.append(part.log_share.unflatten(0, (-1, noises)).unsqueeze(1).expand(shape))
    # Each share has the factor 1 / K, which counts once.
    log_share = torch.stack(shares).sum(0) + (len(shares) - 1) * math.log(noises) if shares else None
    return Draws(vector.flatten(0, 2), None if log_share is None else log_share.flatten(0, 2))


class ProductMarginals(Distribution):
    """The marginals of all coordinates, from those of the parts: batch shape ``(*B, D)``."""

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = parts
        dim = sum(part.batch_shape[-1] for part in parts)
        super().__init__(torch.Size([*parts[0].batch_shape[:-1], dim]), validate_args=False)

    def _of_parts(self, method: str, value: Tensor) -> Tensor:
        values = value.expand(torch.broadcast_shapes(value.shape, self.batch_shape))
        split = values.split([part.batch_shape[-1] for part in self.parts], dim=-1)
        return torch.cat([getattr(part, method)(own) for part, own in zip(self.parts, split, strict=True)], dim=-1)

    @property
    def mean(self) -> Tensor:
        """The mean, ``(*B, D)``."""
        return torch.cat([part.mean for part in self.parts], dim=-1)

    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability below ``value``, ``(*B, D)``."""
        return self._of_parts("cdf", value)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile of the probabilities ``value``, which broadcast to ``(*B, D)``."""
        return self._of_parts("icdf", value)


@marginals.register
def _(q: ProductDistribution) -> Distribution | None:
    known = [found for found in map(marginals, q.parts) if found is not None]
    if len(known) < len(q.parts):
        return None
    if all(isinstance(part, Normal) for part in known):
        mean, std = (torch.cat([getattr(part, name) for part in known], dim=-1) for name in ("mean", "stddev"))
        return Normal(mean, std, validate_args=False)
    return ProductMarginals(known)


@has_fast_density.register
def _(q: ProductDistribution) -> bool:
    return all(map(has_fast_density, q.parts))


@implausible.register
def _(q: ProductDistribution) -> Tensor | None:
    known = [found for found in map(implausible, q.parts) if found is not None]
    return torch.stack(known).any(0) if known else None


@register_kl(ProductDistribution, StandardNormal)  # type: ignore[untyped-decorator]  # torch's decorator is not annotated
def _kl_product_standard_normal(q: ProductDistribution, p: StandardNormal) -> Tensor:
    # A part without a closed form raises NotImplementedError, and so does the product.
    return torch.stack([kl_divergence(part, StandardNormal(part.loc)) for part in q.parts]).sum(0)
