r"""The Gaussian with a diagonal plus low-rank covariance, by its symmetric square root.

With :math:`V` of shape :math:`D \times r`,

.. math::

    A = \operatorname{diag}(\sigma)\,(I + V V^\top), \qquad
    A A^\top = \operatorname{diag}(\sigma)\,\bigl(I + V\,(2 I + V^\top V)\,V^\top\bigr)\operatorname{diag}(\sigma),

which reaches every "diagonal plus rank r" covariance: the singular values :math:`s` of a factor of the rank-``r`` part and
:math:`v` of :math:`V` satisfy :math:`1 + s^2 = (1 + v^2)^2`. The usual form :math:`\sigma\epsilon + F\eta` needs :math:`D + r`
noise variables and a solve for the density of its own sample; this form needs :math:`D` and no solve. Only the
:math:`r \times r` matrix :math:`I + V^\top V`, whose eigenvalues are at least one, is factorized. If that fails, because a
parameter is NaN or rounding errors exceed one, the density is NaN.

``A`` is quadratic in ``V``, so a head that returned ``V`` could make ``A`` explode far from the center of the data. The head
returns :math:`F` instead: :math:`V = F\,(1 + \lVert F \rVert^2)^{-1/4}` reaches the same matrices but grows only like a square
root.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from amortvi._util.checks import optional, positive_int
from amortvi.errors import FamilyError
from amortvi.families.gaussians.gaussian import GaussianFamily, ScaleOperator, from_columns, standardized, to_columns

__all__ = ["LowRank", "LowRankScale"]


class LowRankScale(ScaleOperator):
    """``A = diag(exp(log_scale)) (I + V V')``.

    Args:
        log_scale: shape ``(*B, D)``.
        factor: ``V``, shape ``(*B, D, r)``.
    """

    def __init__(self, log_scale: Tensor, factor: Tensor) -> None:
        self.log_scale = log_scale
        self.factor = factor

    def _gram(self, shift: float) -> Tensor:
        """Return ``shift I + V' V``, shape ``(*B, r, r)``."""
        identity = torch.eye(self.factor.shape[-1], dtype=self.factor.dtype, device=self.factor.device)
        return shift * identity + self.factor.mT @ self.factor

    def _cholesky(self) -> Tensor:
        """Return the Cholesky factor of ``I + V' V``, ``(*B, r, r)``, or NaN where there is none."""
        factor, info = torch.linalg.cholesky_ex(self._gram(1.0))
        return torch.where((info == 0)[..., None, None], factor, math.nan)

    def matmul(self, noise: Tensor) -> Tensor:
        columns = to_columns(noise, self.log_scale.dim() - 1)
        correlated = from_columns(self.factor @ (self.factor.mT @ columns), like=noise)
        return self.log_scale.exp() * (noise + correlated)

    def solve(self, residual: Tensor) -> Tensor:
        # Woodbury: (I + V V')^-1 = I - V (I + V' V)^-1 V'.
        distance = standardized(residual, self.log_scale)
        columns = to_columns(distance, self.log_scale.dim() - 1)
        cholesky = self._cholesky()
        correction = self.factor @ torch.cholesky_solve(self.factor.mT @ columns, cholesky)
        return distance - from_columns(correction, like=distance)

    def log_abs_det(self) -> Tensor:
        cholesky = self._cholesky()
        return self.log_scale.sum(-1) + 2 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def variance(self) -> Tensor:
        correlated = ((self.factor @ self._gram(2.0)) * self.factor).sum(-1)
        return (2 * self.log_scale).exp() * (1 + correlated)

    def covariance(self) -> Tensor:
        scale = self.log_scale.exp()
        identity = torch.eye(scale.shape[-1], dtype=scale.dtype, device=scale.device)
        correlated = identity + self.factor @ self._gram(2.0) @ self.factor.mT
        return scale.unsqueeze(-1) * correlated * scale.unsqueeze(-2)

    def expand(self, batch_shape: torch.Size) -> LowRankScale:
        return type(self)(
            self.log_scale.expand(batch_shape + self.log_scale.shape[-1:]),
            self.factor.expand(batch_shape + self.factor.shape[-2:]),
        )


class LowRank(GaussianFamily):
    """Gaussian with covariance "diagonal plus rank ``rank``" and ``2 D + D rank`` parameters.

    Args:
        rank: ``r``, the rank of the correlated part, at most ``D``; by default the rounded square root of ``D``.
        off_diagonal_rate: the learning rate of ``F`` relative to that of the locations; it is divided by ``D``. See
            `FullCovariance`.
        head: whether there is a linear head; without one, the context itself is ``(loc, log_scale, F row by row)``.

    Raises:
        OptionError: ``rank`` is not a positive integer, or ``off_diagonal_rate`` is not positive.
        FamilyError: at setup, if ``rank`` exceeds ``D``, or if there is no head and ``C`` is not the number of parameters.

    Example:
        >>> family = LowRank(rank=2).setup(dim=4, context_features=5)
        >>> family.num_parameters, family(torch.zeros(3, 5)).covariance_matrix.shape
        (16, torch.Size([3, 4, 4]))
    """

    def __init__(self, rank: int | None = None, *, off_diagonal_rate: float = 1.0, head: bool = True) -> None:
        super().__init__(off_diagonal_rate=off_diagonal_rate, head=head)
        self.rank = optional(positive_int, "rank", rank)

    @property
    def num_off_diagonal(self) -> int:
        return self.dim * self._rank

    @property
    def _rank(self) -> int:
        return max(1, round(self.dim**0.5)) if self.rank is None else self.rank

    def build(self) -> None:
        if self._rank > self.dim:
            raise FamilyError(
                f"rank must be at most the number of latent dimensions, {self.dim}; got rank={self.rank}. For a covariance of "
                f"full rank use the family 'full'."
            )
        super().build()

    def initial_off_diagonal(self) -> Tensor:
        # Small random numbers, because the gradient of F vanishes at F = 0.
        return 0.1 * torch.randn(self.num_off_diagonal) / self.dim**0.5

    def scale(self, log_scale: Tensor, off_diagonal: Tensor) -> LowRankScale:
        """Return ``A`` with ``off_diagonal`` of shape ``(*B, D r)`` as the rows of ``F``."""
        factor = off_diagonal.unflatten(-1, (self.dim, self._rank))
        squared_norm = factor.square().sum((-1, -2), keepdim=True)
        return LowRankScale(log_scale, factor * (1 + squared_norm).pow(-0.25))
