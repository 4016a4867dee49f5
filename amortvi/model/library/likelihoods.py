"""Likelihoods ``p(x | z)`` of a VAE: from the decoder's output to a distribution of one observation."""

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
    """Maps the decoder's output to the distribution of the observations' entries."""

    @abstractmethod
    def forward(self, decoded: Tensor) -> Any:
        """Return the distribution of each entry, its batch shape being the shape of ``x``.

        Args:
            decoded: the decoder's output, laid out as ``x`` is, ``(B, *event)``; where the decoder gives ``K`` numbers
                for each entry, ``(B, *event, K)``.
        """

    def mean(self, decoded: Tensor) -> Tensor:
        """Return what is expected of each entry, the shape of ``x``; probabilities where entries are classes."""
        mean: Tensor = self(decoded).mean
        return mean


class Intensity(dist.Bernoulli):  # type: ignore[misc]  # Pyro's distributions are untyped
    """A Bernoulli distribution that scores grey values too; beyond [0, 1] its formula has no bound."""

    support = constraints.unit_interval


class Bernoulli(Likelihood):
    """Binary entries, or intensities in [0, 1]; the decoder gives logits of the shape of ``x``."""

    def forward(self, decoded: Tensor) -> Any:
        """Return ``Bernoulli(logits=decoded)``; intensities between 0 and 1 score as their expected log-likelihood."""
        return Intensity(logits=decoded)


class Normal(Likelihood):
    """Real entries with one learned scale; the decoder gives means of the shape of ``x``.

    Args:
        scale: where the learned scale starts, or stays with ``learned=False``.
        learned: whether the scale is trained.

    Raises:
        OptionError: the scale is not above zero.
    """

    log_scale: Tensor

    def __init__(self, scale: float = 1.0, *, learned: bool = True) -> None:
        super().__init__()
        log_scale = torch.tensor(positive_float("scale", scale)).log()
        if learned:
            self.log_scale = nn.Parameter(log_scale)
        else:
            self.register_buffer("log_scale", log_scale)  # Pyro warns of parameters that are not to be trained

    def forward(self, decoded: Tensor) -> Any:
        """Return ``Normal(decoded, scale)``."""
        return dist.Normal(decoded, self.log_scale.exp())


class Categorical(Likelihood):
    """Entries that are one of ``K`` classes, as integers; the decoder gives logits of shape ``(*x, K)``."""

    def forward(self, decoded: Tensor) -> Any:
        """Return ``Categorical(logits=decoded)``."""
        return dist.Categorical(logits=decoded)

    def mean(self, decoded: Tensor) -> Tensor:
        """Return the probability of each class, ``(*x, K)``."""
        return decoded.softmax(-1)


class Poisson(Likelihood):
    """Counts; the decoder gives log rates of the shape of ``x``."""

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
