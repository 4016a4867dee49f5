"""The contract of a posterior family: a context goes in, one distribution per observation comes out."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from amortvi._util.checks import positive_int
from amortvi._util.keyword_options import options_repr
from amortvi.errors import FamilyError
from amortvi.families.gate import Gate

__all__ = ["INITIAL_LOG_SCALE", "Family", "ParametricFamily", "require_parametric"]

INITIAL_LOG_SCALE = -1.5
"""The initial log scale. If latents start as noisy as the prior, the decoder learns to ignore some of them permanently. With
an initial scale of about 0.2, the decoder learns to use them, and the scale then grows where a small one brings no gain."""


class Family(nn.Module, ABC):
    """A posterior family: maps the context of an observation to its posterior ``q(z | x)`` over ``R^D``.

    Options are passed to the constructor. Sizes are passed to `setup`, which a guide calls on its first data and which calls
    `build` to create the parameters. A subclass implements `build` and `forward`. Closed forms are provided by the
    distributions; see ``amortvi.families.closed_forms``.

    Attributes:
        dim: ``D``, the size of the unconstrained latent vector of one observation.
        context_features: ``C``, the size of the encoder's output for one observation.
        sites: the unconstrained shapes of the latent sites that form the vector, for families with a structure in sites or time.
    """

    dim: int
    context_features: int
    sites: Mapping[str, torch.Size]

    def __init__(self) -> None:
        super().__init__()  # a subclass without options has this signature, from which its repr is made

    def setup(self, dim: int, context_features: int, sites: Mapping[str, torch.Size] | None = None) -> Self:
        """Create the parameters for given sizes.

        Args:
            dim: ``D``.
            context_features: ``C``.
            sites: the unconstrained shape of each latent site, in the order of the vector; by default one site of shape ``(D,)``.

        Returns:
            The family itself.

        Raises:
            OptionError: a size is not a positive integer.
            FamilyError: the family cannot be built for these sizes.
        """
        self.dim = positive_int("dim", dim)
        self.context_features = positive_int("context_features", context_features)
        self.sites = {"z": torch.Size([self.dim])} if sites is None else dict(sites)
        self.build()
        return self

    @abstractmethod
    def build(self) -> None:
        """Create the parameters for ``self.dim`` and ``self.context_features``."""

    @abstractmethod
    def forward(self, context: Tensor) -> Distribution:
        """Return the posteriors for ``context`` of shape ``(*B, C)``: batch shape ``*B``, event shape ``(D,)``."""

    def unlock(self, fraction: float) -> None:
        """Let what the diagonal family lacks learn at a fraction of its rate; at zero, the posteriors remain diagonal.

        A fit calls this while model and posterior are trained together; see `amortvi.training.timetable`. It applies to every
        `Gate` of the family and of the families that it contains.
        """
        for module in self.modules():
            if isinstance(module, Gate):
                module.unlock(fraction)

    def settle(self) -> None:
        """Unlock everything without changing the posteriors; called at the end of each fit."""
        for module in self.modules():
            if isinstance(module, Gate):
                module.settle()

    def __repr__(self) -> str:
        return options_repr(self)


class ParametricFamily(Family):
    """A family whose posterior for one observation has ``P`` parameters, the first ``D`` of which are locations.

    This part of the contract is optional. Refinement needs it, because it optimizes the parameters of each observation. A
    subclass implements `num_parameters` and `distribution`; the base class owns the *head*, the linear map from context to
    parameters. The head starts with random weights for the locations and with constants for the other parameters, so all
    families with the same seed start at the same locations.

    Args:
        head: whether there is a linear head. Without one, the context itself is the parameter vector, for encoders whose
            last layer already returns the parameters; ``C`` must then equal ``P``.

    Raises:
        FamilyError: at setup, if there is no head and ``C`` is not ``P``.
    """

    to_parameters: nn.Module
    """The head, or the identity."""

    def __init__(self, *, head: bool = True) -> None:
        super().__init__()
        self.head = head

    @property
    @abstractmethod
    def num_parameters(self) -> int:
        """``P``, the number of parameters for one observation."""

    @abstractmethod
    def distribution(self, parameters: Tensor) -> Distribution:
        """Return the posteriors with ``parameters`` of shape ``(*B, P)``."""

    def initial_parameters(self) -> Tensor:
        """Return the initial parameters, ``(P,)``, to which the head adds random weights for the locations."""
        return torch.zeros(self.num_parameters)

    def learning_rates(self) -> Tensor:
        """Return the speed of each parameter during training, relative to the learning rate, ``(P,)``."""
        return torch.ones(self.num_parameters)

    def parameters_near(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Return parameters ``(*B, P)`` of posteriors close to independent Gaussians, to start an optimization.

        Args:
            loc: locations, ``(*B, D)``.
            scale: standard deviations, ``(*B, D)``.

        Raises:
            FamilyError: the family does not implement this method.
        """
        raise FamilyError(
            f"{type(self).__name__} cannot be refined from the posterior of another family: implement "
            f"parameters_near(loc, scale), which returns parameters close to a Gaussian of given location and scale."
        )

    def starting_points(self, near: tuple[Tensor, Tensor], prior: tuple[Tensor, Tensor]) -> list[Tensor]:
        """Return parameters from which an optimization starts, each ``(*B, P)``; the best result counts.

        Args:
            near: locations and standard deviations of a posterior of another family, each ``(*B, D)``.
            prior: those of the prior.
        """
        return [self.parameters_near(*near)]

    def build(self) -> None:
        if self.head:
            self.to_parameters = Head.at_start(self)
        elif self.context_features == self.num_parameters:
            self.to_parameters = nn.Identity()
        else:
            raise FamilyError(
                f"{type(self).__name__}(head=False) uses the context as its parameters: for {self.dim} latent dimensions the "
                f"encoder must return {self.num_parameters} features per observation; got {self.context_features}."
            )

    def forward(self, context: Tensor) -> Distribution:
        """Return the posteriors for ``context`` of shape ``(*B, C)``."""
        return self.distribution(self.to_parameters(context))

    def locked_parameters(self) -> Tensor:
        """Return which parameters wait until the fit unlocks them, boolean, ``(P,)``; at zero, they must have no effect."""
        return torch.zeros(self.num_parameters, dtype=torch.bool)

    def unlock(self, fraction: float) -> None:
        super().unlock(fraction)
        if isinstance(self.to_parameters, Head):
            rates = self.learning_rates()
            rates[self.locked_parameters()] *= fraction
            self.to_parameters.rates.copy_(rates)

    def settle(self) -> None:
        super().settle()
        if isinstance(self.to_parameters, Head):
            self.to_parameters.settle(self.learning_rates())

    def without_head(self) -> Self:
        """Return a frozen copy whose context is the parameter vector itself."""
        return copy.deepcopy(self).requires_grad_(False).remove_head()

    def remove_head(self) -> Self:
        """Remove the head of a family that is set up, and return the family."""
        self.to_parameters = nn.Identity()
        self.context_features = self.num_parameters
        return self


class Head(nn.Module):
    """A linear map whose outputs learn at different rates: ``rates * (weight context + bias)``.

    Optimizers such as Adam change every weight by about the learning rate, so an output moves in proportion to its rate.
    """

    rates: Tensor
    """The current rates; compiled steps read them in each step."""

    def __init__(self, weight: Tensor, bias: Tensor, rates: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.register_buffer("rates", rates, persistent=False)

    @classmethod
    def at_start(cls, family: ParametricFamily) -> Head:
        """Return the head with which a family starts."""
        loc = nn.Linear(family.context_features, family.dim)
        rates, bias = family.learning_rates(), family.initial_parameters() / family.learning_rates()
        weight = torch.zeros(family.num_parameters, family.context_features)
        weight[: family.dim] = loc.weight.detach()
        bias[: family.dim] += loc.bias.detach()
        return cls(weight, bias, rates)

    def settle(self, rates: Tensor) -> None:
        """Set the rates and keep the outputs."""
        ratio = self.rates / rates.to(self.rates)
        with torch.no_grad():
            self.weight.mul_(ratio.unsqueeze(-1))
            self.bias.mul_(ratio)
        self.rates.copy_(rates)

    def forward(self, context: Tensor) -> Tensor:
        """Map ``(*B, C)`` to ``(*B, P)``."""
        return self.rates * F.linear(context, self.weight, self.bias)


def require_parametric(family: Family, purpose: str) -> ParametricFamily:
    """Return ``family`` if its posteriors have parameters for each observation.

    Args:
        family: any family.
        purpose: the feature that needs the parameters, as the subject of the message.

    Raises:
        FamilyError: the family is not parametric.
    """
    if not isinstance(family, ParametricFamily):
        raise FamilyError(
            f"{purpose} needs a family whose posteriors have parameters for each observation, and {type(family).__name__} has "
            f"none: its parameters are the weights of a network. Use a Gaussian family, such as 'full'."
        )
    return family
