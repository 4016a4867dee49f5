r"""Proposals for importance sampling with heavier tails than the posterior.

A Gaussian that is within a few hundredths of a nat of the exact posterior can still have lighter tails; its importance weights
then have infinite variance. A *defensive mixture* (Hesterberg, 1995) takes half of the draws from a Student t distribution
with the same location and scale, and weights all draws by the density of the mixture. If the Gaussian is exact, the effective
sample size is hardly smaller; if the exact posterior has heavier tails, the weights stay bounded.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import Chi2, Distribution, constraints
from torch.types import _size

from amortvi.families import Gaussian, ParametricFamily
from amortvi.posterior import Posterior

__all__ = ["DefensiveMixture", "defensive"]

_STUDENT_WEIGHT = 0.5
_DEGREES_OF_FREEDOM = 3.0
"""Chosen on posteriors that a Gaussian fits to within a few hundredths of a nat. With a weight of 0.2 and five degrees of
freedom, four times as many k-hats exceed their threshold, while the effective sample size of the other observations only rises
from 93% to 97% of the draws."""


class DefensiveMixture(TorchDistribution):
    """An equal mixture of a Gaussian and a Student t distribution with the same location and scale.

    Args:
        gaussian: batch shape ``*B``, event shape ``(D,)``.

    Example:
        >>> import torch
        >>> from amortvi.families.diagonal import DiagonalScale
        >>> mixture = DefensiveMixture(Gaussian(torch.zeros(3, 2), DiagonalScale(torch.zeros(3, 2))))
        >>> mixture.log_prob(mixture.rsample((10,))).shape
        torch.Size([10, 3])
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector

    def __init__(self, gaussian: Gaussian) -> None:
        self.gaussian = gaussian
        super().__init__(gaussian.batch_shape, gaussian.event_shape, validate_args=False)

    @property
    def mean(self) -> Tensor:
        """The mean, ``(*B, D)``."""
        return self.gaussian.mean

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, ``(*B, D)``."""
        student = _DEGREES_OF_FREEDOM / (_DEGREES_OF_FREEDOM - 2)
        return self.gaussian.variance * (1 - _STUDENT_WEIGHT + _STUDENT_WEIGHT * student)

    def rsample(self, sample_shape: _size = ()) -> Tensor:
        """Draw, shape ``(*sample_shape, *B, D)``; the choice of the component has no gradient."""
        loc = self.gaussian.loc
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = torch.randn(shape, dtype=loc.dtype, device=loc.device)
        degrees = loc.new_tensor(_DEGREES_OF_FREEDOM)
        stretch = (degrees / Chi2(degrees).sample(shape[:-1])).sqrt()
        from_student = torch.rand(shape[:-1], dtype=loc.dtype, device=loc.device) < _STUDENT_WEIGHT
        return self.gaussian.from_noise(noise * torch.where(from_student, stretch, 1.0).unsqueeze(-1))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of the mixture, shape ``value.shape[:-1]``."""
        dim, degrees, scale = self.event_shape[0], _DEGREES_OF_FREEDOM, self.gaussian.scale
        distance = scale.solve(value - self.gaussian.loc).square().sum(-1)
        normal = -0.5 * distance - 0.5 * dim * math.log(2 * math.pi)
        student = (
            math.lgamma(0.5 * (degrees + dim))
            - math.lgamma(0.5 * degrees)
            - 0.5 * dim * math.log(degrees * math.pi)
            - 0.5 * (degrees + dim) * torch.log1p(distance / degrees)
        )
        mixture = torch.logaddexp(normal + math.log(1 - _STUDENT_WEIGHT), student + math.log(_STUDENT_WEIGHT))
        return mixture - scale.log_abs_det()


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
        q = self.base.distribution(parameters)
        return DefensiveMixture(q) if isinstance(q, Gaussian) else q

    def parameters_near(self, loc: Tensor, scale: Tensor) -> Tensor:
        return self.base.parameters_near(loc, scale)

    def without_head(self) -> Any:
        return self.base.without_head()


def defensive(posterior: Posterior) -> Posterior:
    """Return a proposal for importance sampling of the exact posterior: the Gaussians of ``posterior`` as defensive mixtures.

    Args:
        posterior: of any family; distributions other than `families.Gaussian` stay as they are.

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
