"""Likelihoods ``p(x | z)`` of a VAE: they map the decoder's output to the distribution of the observations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.distributions import constraints

from amortvi._util.checks import positive_float
from amortvi.errors import OptionError

__all__ = ["Bernoulli", "Categorical", "Likelihood", "Normal", "Poisson", "make_likelihood"]


class Likelihood(nn.Module, ABC):
    """Maps the decoder's output to the distribution of each entry of the observations."""

    @abstractmethod
    def forward(self, decoded: Tensor) -> Any:
        """Return the distribution of each entry, whose batch shape is the shape of ``x``.

        Args:
            decoded: the decoder's output in the layout of ``x``: ``(B, *event)``, or ``(B, *event, K)`` if the decoder returns
                ``K`` values per entry.
        """

    def mean(self, decoded: Tensor) -> Tensor:
        """Return the mean of each entry, in the shape of ``x``; for classes, their probabilities."""
        return self(decoded).mean


class Intensity(dist.Bernoulli):  # type: ignore[misc]  # Pyro's distributions are untyped
    """A Bernoulli distribution that also accepts intensities in [0, 1]; outside this interval, its density is unbounded."""

    support = constraints.unit_interval


class Bernoulli(Likelihood):
    """Binary entries, or intensities in [0, 1]; the decoder returns logits in the shape of ``x``."""

    def forward(self, decoded: Tensor) -> Any:
        """Return ``Bernoulli(logits=decoded)``; the log density of an intensity is that expected of a bit with this mean."""
        return Intensity(logits=decoded)


class Normal(Likelihood):
    """Real entries with one scale for all; the decoder returns means in the shape of ``x``.

    Args:
        scale: the initial scale, or the fixed one if ``learned=False``.
        learned: whether the scale is trained.

    Raises:
        OptionError: the scale is not positive.
    """

    log_scale: Tensor

    def __init__(self, scale: float = 1.0, *, learned: bool = True) -> None:
        super().__init__()
        log_scale = torch.tensor(positive_float("scale", scale)).log()
        if learned:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)  # Pyro warns about frozen parameters

    def forward(self, decoded: Tensor) -> Any:
        """Return ``Normal(decoded, scale)``."""
        return dist.Normal(decoded, self.log_scale.exp())


class Categorical(Likelihood):
    """Integer entries, each one of ``K`` classes; the decoder returns logits of shape ``(B, *event, K)``."""

    def forward(self, decoded: Tensor) -> Any:
        """Return ``Categorical(logits=decoded)``."""
        return dist.Categorical(logits=decoded)

    def mean(self, decoded: Tensor) -> Tensor:
        """Return the probability of each class, ``(B, *event, K)``."""
        return decoded.softmax(-1)


class Poisson(Likelihood):
    """Counts; the decoder returns log rates in the shape of ``x``."""

    def forward(self, decoded: Tensor) -> Any:
        """Return ``Poisson(exp(decoded))``."""
        return dist.Poisson(decoded.exp())


NAMED: dict[str, type[Likelihood]] = {
    "bernoulli": Bernoulli,
    "normal": Normal,
    "categorical": Categorical,
    "poisson": Poisson,
}
"""The likelihoods that can be chosen by name."""


def make_likelihood(choice: str | Likelihood) -> Likelihood:
    """Return the chosen likelihood.

    Raises:
        OptionError: the choice is neither a known name nor a `Likelihood`.
    """
    if isinstance(choice, Likelihood):
        return choice
    if not isinstance(choice, str) or choice not in NAMED:
        raise OptionError(f"likelihood must be one of {sorted(NAMED)} or a models.Likelihood; got {choice!r}.")
    return NAMED[choice]()
