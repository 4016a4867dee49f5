r"""The multivariate Student's t distribution, whose heavier tails make a safer proposal for importance sampling.

With :math:`\nu` degrees of freedom and a structured :math:`A`, as for a Gaussian,

.. math::

    z = \mu + A\,\epsilon / \sqrt{c / \nu}, \qquad \epsilon \sim N(0, I), \quad c \sim \chi^2_\nu .

:math:`\nu` is an integer, so :math:`c` is a sum of :math:`\nu` squared normal variables, and a draw is a function of
:math:`D + \nu` of them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, register_kl
from torch.distributions import StudentT as UnivariateStudentT
from torch.types import _size

from amortvi._util.checks import positive_int
from amortvi._util.lazy import special
from amortvi.families.choice import FamilyChoice
from amortvi.families.closed_forms import StandardNormal, implausible, marginals
from amortvi.families.draws import Draws, TransformedNoise
from amortvi.families.gaussians import Gaussian
from amortvi.families.wrapped import WrappedGaussian

__all__ = ["MultivariateStudentT", "StudentT"]


class StudentT(WrappedGaussian):
    """Student's t distribution with the location and the scale matrix of a Gaussian family.

    Args:
        degrees_of_freedom: an integer of at least 3, so that the variance is finite. With fewer, the tails are heavier.
        base: the Gaussian family of location and scale matrix.
        head: whether there is a linear head; without one, the context itself holds the parameters of ``base``.

    Raises:
        OptionError: ``degrees_of_freedom`` is not an integer of at least 3.
        FamilyError: ``base`` is unknown; or, at setup, it is not Gaussian.

    Example:
        >>> family = StudentT(degrees_of_freedom=5).setup(dim=3, context_features=5)
        >>> family(torch.zeros(4, 5)).sample((10,)).shape
        torch.Size([10, 4, 3])
    """

    def __init__(self, degrees_of_freedom: int = 5, base: FamilyChoice = "full", *, head: bool = True) -> None:
        super().__init__(base, head=head)
        self.degrees_of_freedom = positive_int("degrees_of_freedom", degrees_of_freedom, at_least=3)

    def distribution(self, parameters: Tensor) -> MultivariateStudentT:
        """Return the distributions with ``parameters`` of shape ``(*B, P)``."""
        return MultivariateStudentT(self.gaussian(parameters), self.degrees_of_freedom)


class MultivariateStudentT(TransformedNoise):
    """Student's t distribution with the location and the scale matrix ``A A'`` of a Gaussian.

    Args:
        gaussian: location and scale matrix, batch shape ``*B``, event shape ``(D,)``.
        degrees_of_freedom: an integer of at least 3.
    """

    def __init__(self, gaussian: Gaussian, degrees_of_freedom: int) -> None:
        super().__init__(gaussian.loc)
        self.gaussian = gaussian
        self.degrees_of_freedom = degrees_of_freedom

    def expand(self, batch_shape: _size, _instance: None = None) -> MultivariateStudentT:
        """Return the same distributions with batch shape ``batch_shape``."""
        return MultivariateStudentT(self.gaussian.expand(batch_shape), self.degrees_of_freedom)

    @property
    def noise_dim(self) -> int:
        return self.event_shape[0] + self.degrees_of_freedom

    def from_noise(self, noise: Tensor) -> Draws:
        """Return one draw for each noise: ``(*S, *B, D + nu)`` gives ``(*S, *B, D)``."""
        normal, chi = noise.split([self.event_shape[0], self.degrees_of_freedom], dim=-1)
        standard = normal / chi.square().mean(-1, keepdim=True).sqrt()
        drawn = self.gaussian.from_noise(standard)
        self.remember(drawn.vector, standard)
        return drawn

    def log_prob(self, value: Tensor) -> Tensor:
        """Return ``log q(value)``, shape ``value.shape[:-1]``."""
        standard = self.recall(value)
        if standard is None:
            standard = self.gaussian.scale.solve(value - self.loc)
        nu, dim = self.degrees_of_freedom, self.event_shape[0]
        tail = 0.5 * (nu + dim) * torch.log1p(standard.square().sum(-1) / nu)
        return self._log_constant - self.gaussian.scale.log_abs_det() - tail

    @property
    def _log_constant(self) -> float:
        nu, dim = self.degrees_of_freedom, self.event_shape[0]
        return math.lgamma(0.5 * (nu + dim)) - math.lgamma(0.5 * nu) - 0.5 * dim * math.log(nu * math.pi)

    @property
    def _variance_ratio(self) -> float:
        return self.degrees_of_freedom / (self.degrees_of_freedom - 2)

    @property
    def mean(self) -> Tensor:
        """The mean, ``(*B, D)``."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate, ``(*B, D)``."""
        return self._variance_ratio * self.gaussian.variance

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance, ``(*B, D, D)``."""
        return self._variance_ratio * self.gaussian.covariance_matrix

    def entropy(self) -> Tensor:
        """Return the entropy in nats, shape ``(*B,)``."""
        nu, dim = self.degrees_of_freedom, self.event_shape[0]
        expected_tail = 0.5 * (nu + dim) * float(special.digamma(0.5 * (nu + dim)) - special.digamma(0.5 * nu))
        return expected_tail - self._log_constant + self.gaussian.scale.log_abs_det()


@register_kl(MultivariateStudentT, StandardNormal)  # type: ignore[untyped-decorator]  # torch's decorator is not annotated
def _kl_student_standard_normal(q: MultivariateStudentT, p: StandardNormal) -> Tensor:
    second_moment = (q.variance + q.mean.square()).sum(-1)
    return 0.5 * (second_moment + q.event_shape[0] * math.log(2 * math.pi)) - q.entropy()


class _StudentMarginals(UnivariateStudentT):
    """Student's t distribution with distribution and quantile functions, from SciPy."""

    def cdf(self, value: Tensor) -> Tensor:
        """Return the probability below ``value``."""
        standard = (value - self.loc) / self.scale
        return self._of(special.stdtr, standard)

    def icdf(self, value: Tensor) -> Tensor:
        """Return the quantile of the probability ``value``."""
        return self.loc + self.scale * self._of(special.stdtrit, value)

    def _of(self, function: Any, value: Tensor) -> Tensor:
        # All degrees of freedom are equal.
        found = function(float(self.df.flatten()[0]), value.detach().cpu().numpy())
        return torch.from_numpy(np.asarray(found)).to(value)


@marginals.register
def _(q: MultivariateStudentT) -> Distribution:
    scale = q.gaussian.variance.sqrt()
    nu = torch.full_like(scale, float(q.degrees_of_freedom))
    return _StudentMarginals(nu, q.loc, scale, validate_args=False)


@implausible.register
def _(q: MultivariateStudentT) -> Tensor | None:
    return implausible(q.gaussian)
