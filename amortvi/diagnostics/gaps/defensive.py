r"""Proposals for importance sampling with heavier tails than the posterior.

A Gaussian that is within a few hundredths of a nat of the exact posterior can still have lighter tails; its importance weights
then have infinite variance. A *defensive mixture* (Hesterberg, 1995) takes half of the draws from a Student t distribution
with the same location and scale, and weights all draws by the density of the mixture. If the Gaussian is exact, the effective
sample size is hardly smaller; if the exact posterior has heavier tails, the weights stay bounded.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.types import _size

from amortvi.families import Draws, Gaussian, ParametricFamily, TransformedNoise
from amortvi.families.mixture import MixtureDistribution
from amortvi.families.student_t import MultivariateStudentT
from amortvi.posterior import Posterior

__all__ = ["DefensiveMixture", "defensive"]

_STUDENT_WEIGHT = 0.5
_DEGREES_OF_FREEDOM = 3
"""Chosen on posteriors that a Gaussian fits to within a few hundredths of a nat. With a weight of 0.2 and five degrees of
freedom, four times as many k-hats exceed their threshold, while the effective sample size of the other observations only rises
from 93% to 97% of the draws."""


class DefensiveMixture(TransformedNoise):
    """An equal mixture of a Gaussian and a Student t distribution with the same location and scale.

    Args:
        gaussian: batch shape ``*B``, event shape ``(D,)``.

    Example:
        >>> import torch
        >>> from amortvi.families.gaussians.diagonal import DiagonalScale
        >>> mixture = DefensiveMixture(Gaussian(torch.zeros(3, 2), DiagonalScale(torch.zeros(3, 2))))
        >>> mixture.log_prob(mixture.sample((10,))).shape
        torch.Size([10, 3])
    """

    has_rsample = False  # the choice of the component has no derivative

    def __init__(self, gaussian: Gaussian) -> None:
        super().__init__(gaussian.loc)
        self.gaussian = gaussian
        self.student = MultivariateStudentT(gaussian, _DEGREES_OF_FREEDOM)

    @property
    def noise_dim(self) -> int:
        return self.student.noise_dim + 1

    @property
    def mean(self) -> Tensor:
        """The mean, ``(*B, D)``."""
        return self.gaussian.mean

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, ``(*B, D)``."""
        return (1 - _STUDENT_WEIGHT) * self.gaussian.variance + _STUDENT_WEIGHT * self.student.variance

    def from_noise(self, noise: Tensor) -> Draws:
        """Return one draw for each noise; its last variable chooses the component, and the others make the draw."""
        *own, choice = noise.split([self.student.noise_dim, 1], dim=-1)
        from_student = self.student.from_noise(own[0]).vector
        from_gaussian = self.gaussian.from_noise(own[0][..., : self.event_shape[0]]).vector
        return Draws(torch.where(torch.special.ndtr(choice) < _STUDENT_WEIGHT, from_student, from_gaussian))

    def sample(self, sample_shape: _size = ()) -> Tensor:
        """Draw, shape ``(*sample_shape, *B, D)``."""
        with torch.no_grad():
            return self.from_noise(self.standard_noise(sample_shape)).vector

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of the mixture, shape ``value.shape[:-1]``."""
        normal = self.gaussian.log_prob(value) + math.log(1 - _STUDENT_WEIGHT)
        return torch.logaddexp(normal, self.student.log_prob(value) + math.log(_STUDENT_WEIGHT))


def _defensive_distribution(q: Distribution) -> Distribution:
    """Return the defensive mixture of a Gaussian, or the mixture of those of the components; others stay as they are."""
    if isinstance(q, Gaussian):
        return DefensiveMixture(q)
    if isinstance(q, MixtureDistribution) and isinstance(q.components, Gaussian):
        return MixtureDistribution(q.log_weights, DefensiveMixture(q.components))
    return q


class _DefensiveFamily(ParametricFamily):
    """A family whose Gaussians are replaced by defensive mixtures; refinement searches in the family itself.

    Args:
        base: a family, set up.
    """

    def __init__(self, base: ParametricFamily) -> None:
        super().__init__(head=base.head)
        self.base = base
        self.dim, self.context_features = base.dim, base.context_features
        self.to_parameters = base.to_parameters

    @property
    def num_parameters(self) -> int:
        return self.base.num_parameters

    def distribution(self, parameters: Tensor) -> Distribution:
        """Return the mixtures for Gaussians with ``parameters`` of shape ``(*B, P)``."""
        return _defensive_distribution(self.base.distribution(parameters))

    def parameters_near(self, loc: Tensor, scale: Tensor) -> Tensor:
        return self.base.parameters_near(loc, scale)

    def without_head(self) -> Any:
        return self.base.without_head()


def defensive(posterior: Posterior) -> Posterior:
    """Return a proposal for importance sampling of the exact posterior: ``posterior`` with defensive mixtures for its Gaussians.

    Args:
        posterior: of any family; distributions that are neither Gaussian nor mixtures of Gaussians stay as they are.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.5], [0.3, 1.0]]), scale=0.5)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").setup(x, seed=0)
        >>> bool(avi.evidence(vi, posterior=avi.diagnostics.defensive(vi.refine(x)), seed=0).reliable.all())
        True
    """
    network = posterior.network.frozen()
    if not isinstance(network.family, ParametricFamily):
        return posterior
    network.family = _DefensiveFamily(network.family)
    return Posterior(posterior.model, network, posterior.observations, posterior.device)
