"""Likelihoods ``p(x | z)`` of a VAE: from the decoder's output to a distribution of one observation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor, nn

from amortvi.errors import OptionError

__all__ = ["Bernoulli", "Categorical", "Likelihood", "Normal", "Poisson", "make_likelihood"]


class Likelihood(nn.Module, ABC):
    """Maps the decoder's output to the distribution of the observations' entries."""

    @abstractmethod
    def forward(self, decoded: Tensor) -> Any:
        """Return the distribution of each entry, its batch shape being the shape of ``x``."""


class Bernoulli(Likelihood):
    """Binary entries, or intensities in [0, 1]; the decoder gives logits of the shape of ``x``."""

    def forward(self, decoded: Tensor) -> Any:
        """Return ``Bernoulli(logits=decoded)``; intensities between 0 and 1 score as their expected log-likelihood."""
        # The usual reading of grey values as probabilities: the density formula is defined for them, the check is not.
        return dist.Bernoulli(logits=decoded, validate_args=False)


class Normal(Likelihood):
    """Real entries with one learned scale; the decoder gives means of the shape of ``x``.

    Args:
        scale: where the learned scale starts, or stays with ``learned=False``.
        learned: whether the scale is a parameter.
    """

    def __init__(self, scale: float = 1.0, *, learned: bool = True) -> None:
        super().__init__()
        if not scale > 0:
            raise OptionError(f"scale must be above zero; got {scale}.")
        self.log_scale = nn.Parameter(torch.tensor(scale).log(), requires_grad=learned)

    def forward(self, decoded: Tensor) -> Any:
        """Return ``Normal(decoded, scale)``."""
        return dist.Normal(decoded, self.log_scale.exp())


class Categorical(Likelihood):
    """Entries that are one of ``K`` classes, as integers; the decoder gives logits of shape ``(*x, K)``."""

    def forward(self, decoded: Tensor) -> Any:
        """Return ``Categorical(logits=decoded)``."""
        return dist.Categorical(logits=decoded)


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
    if choice not in NAMED:
        raise OptionError(f"likelihood must be one of {sorted(NAMED)} or a models.Likelihood; got {choice!r}.")
    return NAMED[choice]()
