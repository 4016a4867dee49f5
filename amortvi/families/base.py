"""The contract of a posterior family: a context goes in, one distribution per observation comes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor, nn

from amortvi._checks import positive_float, positive_int
from amortvi.errors import FamilyError
from amortvi.families.gaussian import Gaussian, ScaleOperator

__all__ = ["Family", "GaussianFamily"]


class Head(nn.Linear):
    """A linear map whose outputs learn at rates of their own: ``rates * (weight context + bias)``.

    Optimizers such as Adam move every parameter by about the learning rate, so an output moves as fast as its rate says.

    Args:
        context_features: ``C``.
        num_parameters: ``P``.
    """

    rates: Tensor

    def __init__(self, context_features: int, num_parameters: int) -> None:
        super().__init__(context_features, num_parameters)
        self.register_buffer("rates", torch.ones(num_parameters), persistent=False)

    def forward(self, context: Tensor) -> Tensor:
        """Map ``(*B, C)`` to ``(*B, P)``."""
        return self.rates * super().forward(context)


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
    takes_noise: ClassVar[bool] = False
    """Its distributions have ``from_noise(noise)``, which makes draws of given standard normal noise."""

    def __init__(self, dim: int, context_features: int, *, num_parameters: int, head: bool = True) -> None:
        super().__init__()
        self.dim = positive_int("dim", dim)
        self.context_features = positive_int("context_features", context_features)
        self.num_parameters = num_parameters
        self.head: nn.Module
        if head:
            self.head = Head(context_features, num_parameters)
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

    def parameters_near(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Return parameters ``(*B, P)`` of posteriors near independent Gaussians, to start a search from.

        Args:
            loc: locations, ``(*B, D)``.
            scale: standard deviations, ``(*B, D)``.

        Raises:
            FamilyError: the family does not say which these are.
        """
        raise FamilyError(
            f"{type(self).__name__} does not say which of its parameters give a Gaussian of a given location and scale: write "
            f"parameters_near(loc, scale) to have it searched for, starting from the posterior of another family."
        )


INITIAL_LOG_SCALE = -1.5
"""Where log scales start. A decoder that first meets latents as noisy as the prior learns to ignore some of them for good;
from a scale of about 0.2 it learns to use them, and the scale then grows where nothing is gained by its being small."""

SCALE_GAIN = 0.3
"""How fast the numbers that make ``A`` move, relative to the locations. A posterior that widens faster than the decoder
learns has the same effect as one that starts wide (measured; see "Initialisation" in the design notes)."""


class GaussianFamily(Family):
    """A family of Gaussians ``z = loc + A eps``; a leaf says how ``A`` is built from raw numbers.

    The parameter vector is ``(loc, log_scale, mixing)``: ``D`` locations, ``D`` log scales, and what else `scale` needs
    to mix the coordinates. The head starts with random weights for ``loc`` and constant scales, so every Gaussian family
    of one seed starts at the same locations, and a richer one starts as the diagonal one.

    Args:
        dim: ``D``.
        context_features: ``C``.
        mixing: how many numbers a leaf takes beside the log scales.
        mixing_rate: how fast those move, relative to the locations; it is divided by ``D``.
        head: whether there is a head.

    Raises:
        OptionError: ``mixing_rate`` is not above zero.
    """

    has_closed_form_kl = True
    has_closed_form_moments = True
    has_gaussian_marginals = True
    takes_noise = True

    def __init__(
        self,
        dim: int,
        context_features: int,
        *,
        mixing: int = 0,
        mixing_rate: float = SCALE_GAIN,
        head: bool = True,
    ) -> None:
        positive_float("mixing_rate", mixing_rate)
        # Drawn before the head, whose size is the family's, so that one seed gives one start to all.
        loc = nn.Linear(context_features, dim) if head else None
        super().__init__(dim, context_features, num_parameters=2 * dim + mixing, head=head)
        if loc is not None:
            # Up to D mixing numbers act on one coordinate: together they are to move it no faster than its scale does.
            rates = [1.0] * dim + [SCALE_GAIN] * dim + [mixing_rate / dim] * mixing
            self.head = _start(self.head, loc, torch.tensor(rates), self.initial_scale())

    def initial_scale(self) -> Tensor:
        """Return the ``(log_scale, mixing)`` that the head starts from."""
        raw = torch.zeros(self.num_parameters - self.dim)
        raw[: self.dim] = INITIAL_LOG_SCALE
        return raw

    def distribution(self, parameters: Tensor) -> Gaussian:
        """Return the Gaussians with the given ``parameters`` of shape ``(*B, P)``."""
        loc, log_scale, mixing = parameters.split([self.dim, self.dim, self.num_parameters - 2 * self.dim], dim=-1)
        return Gaussian(loc, self.scale(log_scale, mixing))

    def parameters_near(self, loc: Tensor, scale: Tensor) -> Tensor:
        """Return the parameters of Gaussians at ``loc`` with standard deviations ``scale``, mixed as at the start."""
        mixing = self.initial_scale()[self.dim :].to(loc)
        return torch.cat([loc, scale.log(), mixing.expand(*loc.shape[:-1], -1)], dim=-1)

    @abstractmethod
    def scale(self, log_scale: Tensor, mixing: Tensor) -> ScaleOperator:
        """Return ``A`` built from ``log_scale`` ``(*B, D)`` and ``mixing`` ``(*B, M)``; any real numbers must do."""


def _start(head: nn.Module, loc: nn.Linear, rates: Tensor, scale: Tensor) -> Head:
    """Return a head that starts at the locations of ``loc`` and at constant scales."""
    assert isinstance(head, Head)
    dim = loc.out_features
    with torch.no_grad():
        head.rates.copy_(rates)
        head.weight.zero_()
        head.weight[:dim] = loc.weight
        head.bias[:dim] = loc.bias
        head.bias[dim:] = scale / rates[dim:]
    return head
