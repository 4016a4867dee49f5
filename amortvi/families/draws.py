r"""Draws through which gradients pass, and the distributions that make them from normal noise.

The expectation of a function under a posterior is estimated by a weighted mean over draws,

.. math::

    E_q[f(z)] \approx \sum_k c_k\, f(z_k), \qquad \sum_k c_k = 1.

Independent draws have equal shares :math:`c_k`. *Stratified* draws of a mixture, as many from each component, have the weights
of the components as their shares. The gradient of the weights then passes through the shares, that of the components through
the draws, and the estimate is unbiased although the choice of a component has no derivative.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import singledispatch
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Distribution, constraints
from torch.types import _size

from amortvi._util.random import standard_normal
from amortvi.errors import FamilyError

__all__ = ["Draws", "TransformedNoise", "draw", "has_fast_density", "require_noise"]


@dataclass(frozen=True)
class Draws:
    """Draws from the posteriors of a batch.

    Args:
        vector: the draws, ``(K, *B, D)``.
        log_share: the logarithm of the share of each draw in an expectation, ``(K, *B)``; ``None`` if all shares are equal.
    """

    vector: Tensor
    log_share: Tensor | None = None

    def mean(self, values: Tensor) -> Tensor:
        """Return the estimate of an expectation, ``*B``, from the values of a function at the draws, ``(K, *B)``."""
        return values.mean(0) if self.log_share is None else (self.log_share.exp() * values).sum(0)

    def log_mean_exp(self, values: Tensor) -> Tensor:
        """Return the logarithm of the estimate of the expectation of ``exp(values)``, ``*B``."""
        if self.log_share is None:
            return torch.logsumexp(values, dim=0) - math.log(len(values))
        return torch.logsumexp(values + self.log_share, dim=0)


class TransformedNoise(TorchDistribution, ABC):
    """A distribution whose draws are functions of standard normal noise.

    With fixed noise, an expectation under it is a deterministic function of its parameters, which refinement maximizes.

    Args:
        loc: locations, ``(*B, D)``; they determine batch shape, event shape, type and device.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True
    """Whether independent draws are differentiable; then `from_noise` accepts any sample shape instead of ``(K,)``."""

    def __init__(self, loc: Tensor) -> None:
        self.loc = loc
        self._remembered: tuple[Tensor, Any] | None = None
        super().__init__(loc.shape[:-1], loc.shape[-1:], validate_args=False)

    @property
    def noise_dim(self) -> int:
        """The number of noise variables of one draw."""
        return self.event_shape[0]

    @abstractmethod
    def from_noise(self, noise: Tensor) -> Draws:
        """Return the draws made from noise, ``(K, *B, noise_dim)``; a mixture returns one for each component."""

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw with gradients, shape ``(*sample_shape, *B, D)``."""
        if not self.has_rsample:
            raise NotImplementedError(
                f"independent draws of {type(self).__name__} have no gradient; use families.draw."
            )
        return self.from_noise(self.standard_noise(sample_shape)).vector

    def standard_noise(self, sample_shape: _size) -> Tensor:
        """Return new noise, ``(*sample_shape, *B, noise_dim)``."""
        shape = torch.Size(sample_shape) + self.batch_shape + (self.noise_dim,)
        return standard_normal(shape, len(sample_shape), self.loc)

    def remember(self, drawn: Tensor, state: Any) -> None:
        """Keep what the density of a draw can be computed from, until the next draw; called by `from_noise`."""
        # From a draw without gradients, the density would have none either.
        usable = torch.is_grad_enabled() or not self.loc.requires_grad
        self._remembered = (drawn, state) if usable else None

    def recall(self, value: Tensor) -> Any | None:
        """Return what is remembered of ``value`` if it is the last draw, else ``None``."""
        drawn, state = self._remembered or (None, None)
        return state if value is drawn else None


def draw(q: Distribution, draws: int) -> Draws:
    """Draw with gradients from the posteriors of a batch.

    Args:
        q: posteriors, batch shape ``*B``, event shape ``(D,)``.
        draws: the number of draws for each observation; from a mixture, for each of its components.

    Example:
        >>> from amortvi.families import make_family
        >>> q = make_family("mixture", dim=2, context_features=5)(torch.zeros(3, 5))
        >>> drawn = draw(q, 10)
        >>> drawn.vector.shape, drawn.log_share.shape
        (torch.Size([30, 3, 2]), torch.Size([30, 3]))
    """
    if isinstance(q, TransformedNoise):
        return q.from_noise(q.standard_noise((draws,)))
    return Draws(q.rsample(torch.Size([draws])))


def require_noise(q: Distribution, purpose: str) -> TransformedNoise:
    """Return ``q`` if it is made from normal noise, else raise `FamilyError`; ``purpose`` is the subject of the message."""
    if not isinstance(q, TransformedNoise):
        raise FamilyError(
            f"{purpose} needs a distribution that is a families.TransformedNoise, such as a families.Gaussian; got "
            f"{type(q).__name__}."
        )
    return q


@singledispatch
def has_fast_density(q: Distribution) -> bool:
    """Return whether the density of any value is computed as fast as that of the last draw."""
    return True
