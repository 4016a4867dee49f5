r"""Mixtures of Gaussians, for posteriors with several modes or other shapes.

.. math::

    q(z \mid x) = \sum_{m=1}^M \pi_m(x)\, q_m(z \mid x).

The choice of a component has no derivative with respect to its probability, so draws are *stratified* (Roeder, Wu and Duvenaud,
2017, section 4; Morningstar et al., 2021): every component is drawn from, and the draws count in proportion to the weights,

.. math::

    E_q[f(z)] = \sum_m \pi_m\, E_{q_m}[f(z)].

The gradient of the weights passes through :math:`\pi_m`, that of the components through their reparameterized draws; both are
exact, and their noise stays bounded when the modes are far apart, where that of implicit reparameterization (Figurnov, Mohamed
and Mnih, 2018) grows with the inverse of the density between them. A training step evaluates the model once per component.

All components have the parameters :math:`\theta + \delta_m`. The locations start spread out, so that different components can
find different modes. While the model is trained together with its posterior, the :math:`\delta_m` are zero at first, and the
mixture is a single Gaussian.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Categorical, Distribution
from torch.types import _size

from amortvi._util.checks import nonnegative_float, positive_int
from amortvi.errors import FamilyError
from amortvi.families.base import ParametricFamily, require_parametric
from amortvi.families.choice import FamilyChoice, resolve_family
from amortvi.families.closed_forms import covariance, implausible, marginals
from amortvi.families.draws import Draws, TransformedNoise, require_noise

__all__ = ["Mixture", "MixtureDistribution", "spread_out"]

_NEGLIGIBLE = 1e-3
"""A component with less weight does not make a posterior implausible."""
_BISECTIONS = 60


class Mixture(ParametricFamily):
    """Mixture of Gaussians whose weights, locations and scales depend on the observation.

    Args:
        components: ``M``, the number of components.
        base: the family of the components, a Gaussian one such as ``"full"``, ``"diagonal"`` or ``LowRank(rank=5)``.
        spread: the standard deviation of the initial locations of the components, in units of the latent vector; those of a
            standard normal prior have 1.
        head: whether there is a linear head; without one, the context itself is ``(theta, delta_1, ..., delta_M, logits)``.

    Raises:
        OptionError: ``components`` is not an integer of at least 2, or ``spread`` is negative.
        FamilyError: ``base`` is unknown; or, at setup, it has no parameters for each observation or is itself a mixture.

    Example:
        >>> family = Mixture(components=2, base="diagonal").setup(dim=3, context_features=5)
        >>> q = family(torch.zeros(4, 5))
        >>> q.weights.shape, q.components.mean.shape, q.sample((10,)).shape
        (torch.Size([4, 2]), torch.Size([4, 2, 3]), torch.Size([10, 4, 3]))
    """

    directions: Tensor
    """The initial locations of the components relative to their mean, in units of ``spread``, ``(M, D)``."""

    def __init__(
        self, components: int = 3, base: FamilyChoice = "full", *, spread: float = 1.0, head: bool = True
    ) -> None:
        super().__init__(head=head)
        self.components = positive_int("components", components, at_least=2)
        self.component = require_parametric(resolve_family(base), "a mixture component")
        self.base = base if isinstance(base, str) else self.component
        self.spread = nonnegative_float("spread", spread)

    def build(self) -> None:
        self.component.setup(self.dim, self.context_features, self.sites).remove_head()
        if not self.component.distribution(torch.zeros(1, self.component.num_parameters)).has_rsample:
            raise FamilyError(
                f"base={self.base!r} cannot be the family of the components, because it is itself a mixture: raise components=."
            )
        self.register_buffer("directions", spread_out(self.components, self.dim), persistent=False)
        super().build()

    @property
    def num_parameters(self) -> int:
        return (self.components + 1) * self.component.num_parameters + self.components

    def initial_parameters(self) -> Tensor:
        return torch.cat([self.component.initial_parameters(), self._offsets(torch.full((self.dim,), self.spread))])

    def learning_rates(self) -> Tensor:
        rates = self.component.learning_rates()
        return torch.cat([rates.repeat(self.components + 1), torch.ones(self.components)])

    def locked_parameters(self) -> Tensor:
        return F.pad(
            self.component.locked_parameters(), (0, self.num_parameters - self.component.num_parameters), value=True
        )

    def parameters_near(self, loc: Tensor, scale: Tensor) -> Tensor:
        return torch.cat([self.component.parameters_near(loc, scale), self._offsets(scale)], dim=-1)

    def starting_points(self, near: tuple[Tensor, Tensor], prior: tuple[Tensor, Tensor]) -> list[Tensor]:
        # Components close to a posterior that has missed a mode would miss it, too.
        loc, scale = prior
        everywhere = torch.cat([self.component.parameters_near(loc, near[1]), self._offsets(scale)], dim=-1)
        return [self.parameters_near(*near), everywhere]

    def _offsets(self, spread: Tensor) -> Tensor:
        """Return ``(delta_1, ..., delta_M, logits)`` of equal weights and locations that are ``spread``, ``(*B, D)``, apart."""
        locations = spread.unsqueeze(-2) * self.directions.to(spread)
        deltas = F.pad(locations, (0, self.component.num_parameters - self.dim))
        return F.pad(deltas.flatten(-2), (0, self.components))

    def distribution(self, parameters: Tensor) -> MixtureDistribution:
        """Return the mixtures with ``parameters`` of shape ``(*B, P)``."""
        size = self.component.num_parameters
        common, deltas, logits = parameters.split([size, self.components * size, self.components], dim=-1)
        each = common.unsqueeze(-2) + deltas.unflatten(-1, (self.components, size))
        components = require_noise(self.component.distribution(each), "a mixture component")
        return MixtureDistribution(torch.log_softmax(logits, dim=-1), components)


def spread_out(components: int, dim: int) -> Tensor:
    """Return ``(components, dim)`` points with mean zero and variance one in each coordinate, always the same ones."""
    points = torch.randn(components, dim, generator=torch.Generator().manual_seed(0))
    centered = points - points.mean(0)
    return centered / centered.square().mean(0).sqrt()


class MixtureDistribution(TransformedNoise):
    """A mixture of ``M`` distributions for each observation.

    Args:
        log_weights: the normalized log weights, ``(*B, M)``.
        components: batch shape ``(*B, M)``, event shape ``(D,)``.
    """

    has_rsample = False  # the choice of a component has no derivative; see `from_noise`

    def __init__(self, log_weights: Tensor, components: TransformedNoise) -> None:
        super().__init__(components.loc[..., 0, :])
        self.log_weights = log_weights
        self.components = components

    def expand(self, batch_shape: _size, _instance: None = None) -> MixtureDistribution:
        """Return the same mixtures with batch shape ``batch_shape``."""
        shape = torch.Size(batch_shape) + self.log_weights.shape[-1:]
        return MixtureDistribution(self.log_weights.expand(shape), self.components.expand(shape))

    @property
    def weights(self) -> Tensor:
        """The weights of the components, ``(*B, M)``."""
        return self.log_weights.exp()

    @property
    def noise_dim(self) -> int:
        return self.components.noise_dim

    def from_noise(self, noise: Tensor) -> Draws:
        """Return one draw of each component for each noise: ``(K, *B, noise_dim)`` gives ``(M K, *B, D)``, stratified."""
        drawn = self.components.from_noise(self._for_each_component(noise)).vector
        vector = drawn.movedim(-2, 0).flatten(0, 1)
        own = self.components.log_prob(drawn).movedim(-1, 0).flatten(0, 1)
        components = torch.arange(drawn.shape[-2], device=own.device).repeat_interleave(len(noise))
        self.remember(vector, (components.reshape(-1, *(1,) * (own.dim() - 1)).expand_as(own), own))
        log_share = self.log_weights.movedim(-1, 0).unsqueeze(1) - math.log(len(noise))
        return Draws(vector, log_share.expand(-1, len(noise), *self.batch_shape).flatten(0, 1))

    def _for_each_component(self, value: Tensor) -> Tensor:
        return value.unsqueeze(-2).expand(*value.shape[:-1], self.log_weights.shape[-1], value.shape[-1])

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw independently, without gradients, shape ``(*sample_shape, *B, D)``."""
        with torch.no_grad():
            chosen = Categorical(logits=self.log_weights, validate_args=False).sample(torch.Size(sample_shape))
            drawn = self.components.sample(torch.Size(sample_shape))
            vector = drawn.take_along_dim(chosen[..., None, None], dim=-2).squeeze(-2)
            own = self.components.log_prob(drawn).take_along_dim(chosen.unsqueeze(-1), dim=-1).squeeze(-1)
            self.remember(vector, (chosen, own))
        return vector

    def log_prob(self, value: Tensor) -> Tensor:
        """Return ``log q(value)``, shape ``value.shape[:-1]``."""
        each = self.components.log_prob(value.unsqueeze(-2))
        # The density of a narrow component at its own draw is known from the noise, but not from the rounded draw. If it came out
        # too low, posteriors too narrow for the precision would seem to gain.
        remembered = self.recall(value)
        if remembered is not None:
            component, own = remembered
            # Far from another component, the numbers that its density is made of may exceed the range of the type.
            each = each.masked_fill(each.isnan(), -torch.inf)
            each = each.scatter(-1, component.unsqueeze(-1), own.unsqueeze(-1))
        return torch.logsumexp(self.log_weights + each, dim=-1)

    @property
    def mean(self) -> Tensor:
        """The mean, ``(*B, D)``."""
        return (self.weights.unsqueeze(-1) * self.components.mean).sum(-2)

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, ``(*B, D)``."""
        second = self.components.variance + self._deviation().square()
        return (self.weights.unsqueeze(-1) * second).sum(-2)

    @property
    def covariance_matrix(self) -> Tensor | None:
        """The covariance, ``(*B, D, D)``, if that of the components is known."""
        within = covariance(self.components)
        if within is None:
            return None
        deviation = self._deviation()
        between = deviation.unsqueeze(-1) * deviation.unsqueeze(-2)
        return (self.weights[..., None, None] * (within + between)).sum(-3)

    def _deviation(self) -> Tensor:
        """Return the means of the components relative to that of the mixture, ``(*B, M, D)``; zero for those without weight."""
        # The square of that of a component far away may be infinite, and its product with a weight of zero NaN.
        deviation = self.components.mean - self.mean.unsqueeze(-2)
        return deviation.masked_fill(self.weights.unsqueeze(-1) == 0, 0.0)


class MixtureMarginals(Distribution):
    """The marginals of a mixture, with quantiles by bisection.

    Args:
        log_weights: the normalized log weights, ``(*B, M)``.
        components: the marginals of the components, batch shape ``(*B, M, D)``, event shape ``()``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}

    def __init__(self, log_weights: Tensor, components: Distribution) -> None:
        self.log_weights = log_weights.unsqueeze(-1)
        self.components = components
        *batch, _, dim = components.batch_shape
        super().__init__(torch.Size([*batch, dim]), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean, ``(*B, D)``."""
        return (self.log_weights.exp() * self.components.mean).sum(-2)

    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability below ``value``, ``(*B, D)``."""
        return (self.log_weights.exp() * self.components.cdf(value.unsqueeze(-2))).sum(-2)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile of the probabilities ``value``, which broadcast to ``(*B, D)``."""
        probability = value.expand(self.batch_shape)
        # It lies between the smallest and the largest of the quantiles of the components.
        each = self.components.icdf(probability.unsqueeze(-2))
        low, high = each.amin(-2), each.amax(-2)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            is_below = self.cdf(middle) < probability
            low, high = torch.where(is_below, middle, low), torch.where(is_below, high, middle)
        return 0.5 * (low + high)


@marginals.register
def _(q: MixtureDistribution) -> Distribution | None:
    each = marginals(q.components)
    return None if each is None else MixtureMarginals(q.log_weights, each)


@implausible.register
def _(q: MixtureDistribution) -> Tensor | None:
    each = implausible(q.components)
    return None if each is None else (each & (q.weights > _NEGLIGIBLE)).any(-1)
