r"""The Gaussian ``z = loc + A eps``, ``eps ~ N(0, I)``, for a structured ``A``, and the families that construct ``A``.

Every Gaussian family of amortvi has this distribution, with a different `ScaleOperator` ``A``. A draw needs a product with
``A``, and the density a solve and a log-determinant:

.. math::

    \log q(z) = -\tfrac12 \lVert A^{-1}(z - \mu) \rVert^2 - \log\lvert\det A\rvert - \tfrac D2 \log 2\pi .

For the last draw of the distribution, :math:`A^{-1}(z - \mu)` is the noise of that draw, so no solve is needed.

A head is linear, and far from the training data its output can be any number. Log scales are therefore mapped to the interval
from -21 to 16: `bounded_log_scale` is the identity from -20 to 15, where every plausible standard deviation lies (2e-9 to
3e6), and levels off smoothly outside it. Off-diagonal parameters, which are in units of the scales, are clamped to one million.
Scales and variances then neither overflow nor underflow in single precision. Distances from the location are clamped to 1e15
scales, whose square is representable. ``families.closed_forms.implausible`` tells which posteriors have such parameters, or
locations so large that the scales are lost in rounding.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Distribution, Normal, register_kl
from torch.types import _size

from amortvi._util.checks import positive_float
from amortvi.families.base import INITIAL_LOG_SCALE, ParametricFamily
from amortvi.families.closed_forms import StandardNormal, implausible, marginals
from amortvi.families.draws import Draws, TransformedNoise

__all__ = [
    "LARGEST_DISTANCE",
    "LARGEST_LOG_SCALE",
    "LARGEST_OFF_DIAGONAL",
    "SCALE_RATE",
    "SMALLEST_LOG_SCALE",
    "Gaussian",
    "GaussianFamily",
    "ScaleOperator",
    "bounded_log_scale",
    "from_columns",
    "standardized",
    "to_columns",
]

SCALE_RATE = 0.3
"""The learning rate of the parameters of ``A`` relative to that of the locations. A posterior that widens faster than the
decoder learns does the same harm as one that starts wide (see "Initialization and phases" in the design notes)."""

SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE = -20.0, 15.0
"""The interval in which `bounded_log_scale` is the identity."""
LARGEST_OFF_DIAGONAL = 1e6
"""The largest absolute value of an off-diagonal parameter."""
LARGEST_DISTANCE = 1e15
"""The largest distance of a value from the location, in units of the scale."""


def bounded_log_scale(log_scale: Tensor) -> Tensor:
    """Return log scales, any real numbers, in the interval from -21 to 16; those from -20 to 15 are unchanged.

    Example:
        >>> bounded_log_scale(torch.tensor([-300.0, -20.0, 1.5, 16.0, 1e30]))
        tensor([-21.0000, -20.0000,   1.5000,  15.7616,  16.0000])
    """
    inside = F.hardtanh(log_scale, SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE)
    return inside + torch.tanh(log_scale - inside)


def standardized(residual: Tensor, log_scale: Tensor) -> Tensor:
    """Return ``residual / exp(log_scale)``, ``(*S, *B, D)``, at most 1e15 in absolute value.

    Example:
        >>> standardized(torch.tensor([0.5, -1e30]), torch.tensor([0.0, -20.0]))
        tensor([ 5.0000e-01, -1.0000e+15])
    """
    return F.hardtanh(residual * (-log_scale).exp(), -LARGEST_DISTANCE, LARGEST_DISTANCE)


def to_columns(vectors: Tensor, batch_dim: int) -> Tensor:
    """Make samples the columns of a matrix for each observation: ``(*S, *B, D) -> (*B, D, S)`` with ``S`` flattened.

    The matrix of an observation is then multiplied by all its samples at once and not copied for each sample.
    """
    samples = vectors.dim() - 1 - batch_dim
    return vectors.reshape(-1, *vectors.shape[samples:]).movedim(0, -1)


def from_columns(columns: Tensor, like: Tensor) -> Tensor:
    """Invert `to_columns` for vectors shaped like ``like``."""
    return columns.movedim(-1, 0).reshape(like.shape)


class ScaleOperator(ABC):
    """A linear map ``A`` on ``R^D`` for each observation; the covariance is ``A A'``.

    Shapes: ``*B`` is the batch shape, ``D`` the dimension, ``*S`` any sample shape.
    """

    @abstractmethod
    def matmul(self, noise: Tensor) -> Tensor:
        """Return ``A noise``: ``(*S, *B, D) -> (*S, *B, D)``."""

    @abstractmethod
    def solve(self, residual: Tensor) -> Tensor:
        """Return ``A^-1 residual``: ``(*S, *B, D) -> (*S, *B, D)``."""

    @abstractmethod
    def log_abs_det(self) -> Tensor:
        """Return ``log |det A|``, shape ``(*B,)``."""

    @abstractmethod
    def variance(self) -> Tensor:
        """Return the diagonal of ``A A'``, shape ``(*B, D)``."""

    @abstractmethod
    def covariance(self) -> Tensor:
        """Return ``A A'``, shape ``(*B, D, D)``."""

    @abstractmethod
    def expand(self, batch_shape: torch.Size) -> ScaleOperator:
        """Return the operator with batch shape ``batch_shape``."""


class Gaussian(TransformedNoise):
    """The Gaussian with location ``loc`` and covariance ``A A'``, where ``A`` is ``scale``.

    Args:
        loc: locations, shape ``(*B, D)``.
        scale: the operator ``A``, batch shape ``*B``.
        implausible: returns which posteriors have implausible parameters, ``(*B,)``, if that is known.

    Example:
        >>> from amortvi.families.gaussians.diagonal import DiagonalScale
        >>> q = Gaussian(torch.zeros(3, 2), DiagonalScale(torch.zeros(3, 2)))
        >>> q.batch_shape, q.event_shape
        (torch.Size([3]), torch.Size([2]))
        >>> torch.distributions.kl_divergence(q, StandardNormal(q.loc))
        tensor([0., 0., 0.])
    """

    def __init__(self, loc: Tensor, scale: ScaleOperator, implausible: Callable[[], Tensor] | None = None) -> None:
        super().__init__(loc)
        self.scale = scale
        self.implausible = implausible

    def expand(self, batch_shape: _size, _instance: None = None) -> Gaussian:
        """Return the same Gaussians with batch shape ``batch_shape``."""
        shape = torch.Size(batch_shape)
        implausible = self.implausible
        return Gaussian(
            self.loc.expand(shape + self.event_shape),
            self.scale.expand(shape),
            None if implausible is None else lambda: implausible().expand(shape),
        )

    @property
    def mean(self) -> Tensor:
        """The mean, shape ``(*B, D)``."""
        return self.loc

    @property
    def variance(self) -> Tensor:
        """The marginal variances, shape ``(*B, D)``."""
        return self.scale.variance()

    @property
    def covariance_matrix(self) -> Tensor:
        """The covariance, shape ``(*B, D, D)``."""
        return self.scale.covariance()

    def from_noise(self, noise: Tensor) -> Draws:
        """Return the draws ``loc + A noise``, ``(*S, *B, D)`` like the noise."""
        drawn = self.loc + self.scale.matmul(noise)
        self.remember(drawn, noise)
        return Draws(drawn)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return ``log q(value)``, shape ``value.shape[:-1]``; for the last draw no solve is needed."""
        noise = self.recall(value)
        if noise is None:
            noise = self.scale.solve(value - self.loc)
        constant = 0.5 * self.event_shape[0] * math.log(2 * math.pi)
        return -0.5 * noise.square().sum(-1) - self.scale.log_abs_det() - constant

    def entropy(self) -> Tensor:
        """Return the entropy in nats, shape ``(*B,)``."""
        return self.scale.log_abs_det() + 0.5 * self.event_shape[0] * (1 + math.log(2 * math.pi))


@register_kl(Gaussian, StandardNormal)  # type: ignore[untyped-decorator]  # torch's decorator is not annotated
def _kl_gaussian_standard_normal(q: Gaussian, p: StandardNormal) -> Tensor:
    r"""Return :math:`\tfrac12 (\operatorname{tr} A A^\top + \lVert\mu\rVert^2 - D) - \log\lvert\det A\rvert`, ``(*B,)``."""
    second_moment = (q.variance + q.loc.square()).sum(-1)
    return 0.5 * (second_moment - q.event_shape[0]) - q.scale.log_abs_det()


@marginals.register
def _(q: Gaussian) -> Distribution:
    return Normal(q.mean, q.variance.sqrt(), validate_args=False)


@implausible.register
def _(q: Gaussian) -> Tensor | None:
    return None if q.implausible is None else q.implausible()


class GaussianFamily(ParametricFamily):
    """A family of Gaussians ``z = loc + A eps``; a subclass constructs ``A`` from real numbers in `scale`.

    The parameters are ``(loc, log_scale, off_diagonal)``: ``D`` locations, ``D`` log scales, and parameters that correlate the
    coordinates. Scales start as constants, so every Gaussian family starts close to the diagonal one. Parameters of ``A`` for
    which no posterior is plausible are bounded; see ``amortvi.families.gaussians``.

    Args:
        off_diagonal_rate: the learning rate of the off-diagonal parameters relative to that of the locations; it is divided
            by ``D``.
        head: whether there is a linear head; see `ParametricFamily`.

    Raises:
        OptionError: ``off_diagonal_rate`` is not positive.
        FamilyError: at setup, if there is no head and ``C`` is not the number of parameters.
    """

    def __init__(self, *, off_diagonal_rate: float = 1.0, head: bool = True) -> None:
        super().__init__(head=head)
        self.off_diagonal_rate = positive_float("off_diagonal_rate", off_diagonal_rate)

    @property
    def num_off_diagonal(self) -> int:
        """The number of parameters other than locations and log scales."""
        return 0

    @abstractmethod
    def scale(self, log_scale: Tensor, off_diagonal: Tensor) -> ScaleOperator:
        """Return ``A``, valid for any real numbers.

        Args:
            log_scale: ``(*B, D)``, from -21 to 16.
            off_diagonal: ``(*B, num_off_diagonal)``, at most one million in absolute value; with zeros, ``A`` should be
                ``diag(exp(log_scale))``.
        """

    @property
    def num_parameters(self) -> int:
        """``2 D`` plus the number of off-diagonal parameters."""
        return 2 * self.dim + self.num_off_diagonal

    def distribution(self, parameters: Tensor) -> Gaussian:
        """Return the Gaussians with ``parameters`` of shape ``(*B, P)``."""
        loc, log_scale, off_diagonal = parameters.split([self.dim, self.dim, self.num_off_diagonal], dim=-1)
        bounded = off_diagonal
        if self.num_off_diagonal:
            bounded = F.hardtanh(off_diagonal, -LARGEST_OFF_DIAGONAL, LARGEST_OFF_DIAGONAL)

        scale = self.scale(bounded_log_scale(log_scale), bounded)

        def implausible() -> Tensor:
            inside = log_scale.clamp(SMALLEST_LOG_SCALE, LARGEST_LOG_SCALE)
            lost = torch.finfo(loc.dtype).eps * loc.abs() > scale.variance().sqrt()
            return (log_scale != inside).any(-1) | (off_diagonal != bounded).any(-1) | lost.any(-1)

        return Gaussian(loc, scale, implausible)

    def initial_off_diagonal(self) -> Tensor:
        """Return the initial off-diagonal parameters, ``(num_off_diagonal,)``."""
        return torch.zeros(self.num_off_diagonal)

    def initial_parameters(self) -> Tensor:
        scales = torch.full((self.dim,), INITIAL_LOG_SCALE)
        return torch.cat([torch.zeros(self.dim), scales, self.initial_off_diagonal()])

    def learning_rates(self) -> Tensor:
        # Up to D off-diagonal parameters affect one coordinate: together they move it no faster than its scale does.
        off_diagonal = [self.off_diagonal_rate / self.dim] * self.num_off_diagonal
        return torch.tensor([1.0] * self.dim + [SCALE_RATE] * self.dim + off_diagonal)

    def locked_parameters(self) -> Tensor:
        return torch.arange(self.num_parameters) >= 2 * self.dim

    def parameters_near(self, loc: Tensor, scale: Tensor) -> Tensor:
        off_diagonal = self.initial_off_diagonal().to(loc)
        return torch.cat([loc, scale.log(), off_diagonal.expand(*loc.shape[:-1], -1)], dim=-1)
