"""The contract of a posterior family: a context goes in, one distribution per observation comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from amortvi._checks import positive_int
from amortvi.errors import FamilyError
from amortvi.families.gaussian import Gaussian, ScaleOperator

__all__ = ["Family", "GaussianFamily"]


class Family(nn.Module, ABC):
    """Maps the context of an observation to its posterior ``q(z | x)`` over ``R^dim``.

    A leaf declares ``num_parameters`` (the size of its parameter vector for one observation) and writes
    `distribution`. The base owns the *head*, the linear map from context to parameters. What a family can do in closed
    form it states in class attributes, so that others ask instead of testing for its type.

    Args:
        dim: ``D``, the size of the unconstrained latent vector of one observation.
        context_features: ``C``, the size of the encoder's output for one observation.
        num_parameters: ``P``, the size of the parameter vector.
        head: with ``True`` a linear head maps ``C`` to ``P``; with ``False`` the context *is* the parameter vector, for
            encoders whose last layer already gives the parameters (then ``C`` must equal ``P``).

    Raises:
        FamilyError: ``head=False`` and ``context_features != num_parameters``.
    """

    has_closed_form_kl: ClassVar[bool] = False
    """Its distributions have ``kl_standard_normal() -> (*B,)``."""
    has_closed_form_moments: ClassVar[bool] = False
    """Its distributions have ``mean``, ``variance`` and ``covariance_matrix`` in closed form."""
    has_gaussian_marginals: ClassVar[bool] = False
    """Each coordinate is marginally Gaussian, with the ``mean`` and ``variance`` of the distribution."""

    def __init__(self, dim: int, context_features: int, *, num_parameters: int, head: bool = True) -> None:
        super().__init__()
        self.dim = positive_int("dim", dim)
        self.context_features = positive_int("context_features", context_features)
        self.num_parameters = num_parameters
        self.head: nn.Module
        if head:
            self.head = nn.Linear(context_features, num_parameters)
        elif context_features == num_parameters:
            self.head = nn.Identity()
        else:
            raise FamilyError(
                f"{type(self).__name__}(head=False) takes the context as its parameters: for {dim} latent dimensions "
                f"the encoder must return {num_parameters} features an observation; got {context_features}."
            )

    def forward(self, context: Tensor) -> TorchDistribution:
        """Return the posteriors for ``context`` of shape ``(*B, C)``: batch shape ``*B``, event shape ``(D,)``."""
        return self.distribution(self.head(context))

    @abstractmethod
    def distribution(self, parameters: Tensor) -> TorchDistribution:
        """Return the posteriors with the given ``parameters`` of shape ``(*B, P)``."""


class GaussianFamily(Family):
    """A family of Gaussians ``z = loc + A eps``; a leaf says how ``A`` is built from raw numbers.

    The parameter vector is ``(loc, raw)``: ``D`` locations, then the ``scale_parameters`` numbers that `scale` reads.
    The head starts with random weights for ``loc`` and constant ``raw`` (`initial_raw`), so every Gaussian family of one
    seed starts at the same locations, and a richer one starts as the diagonal one.
    """

    has_closed_form_kl = True
    has_closed_form_moments = True
    has_gaussian_marginals = True

    def __init__(self, dim: int, context_features: int, *, scale_parameters: int, head: bool = True) -> None:
        super().__init__(dim, context_features, num_parameters=dim + scale_parameters, head=head)
        if isinstance(self.head, nn.Linear):
            self._start_with_constant_scale(self.head)

    def _start_with_constant_scale(self, head: nn.Linear) -> None:
        loc = nn.Linear(self.context_features, self.dim)
        with torch.no_grad():
            head.weight.zero_()
            head.weight[: self.dim] = loc.weight
            head.bias[: self.dim] = loc.bias
            head.bias[self.dim :] = self.initial_raw()

    def initial_raw(self) -> Tensor:
        """Return the raw scale parameters that the head starts from; zeros mean ``A = I``."""
        return torch.zeros(self.num_parameters - self.dim)

    def distribution(self, parameters: Tensor) -> Gaussian:
        """Return the Gaussians with the given ``parameters`` of shape ``(*B, P)``."""
        loc, raw = parameters.split([self.dim, self.num_parameters - self.dim], dim=-1)
        return Gaussian(loc, self.scale(raw))

    @abstractmethod
    def scale(self, raw: Tensor) -> ScaleOperator:
        """Return ``A`` built from ``raw`` of shape ``(*B, scale_parameters)``; any real numbers must do."""
