r"""The Gaussian with a diagonal plus low-rank covariance, by its symmetric square root.

With :math:`V` of shape :math:`D \times r`,

.. math::

    A = \operatorname{diag}(\sigma)\,(I + V V^\top), \qquad
    A A^\top = \operatorname{diag}(\sigma)\,\bigl(I + V\,(2 I + V^\top V)\,V^\top\bigr)\operatorname{diag}(\sigma),

which reaches every "diagonal plus rank r" covariance: the singular values :math:`s` of a factor :math:`F` and
:math:`v` of :math:`V` correspond by :math:`1 + s^2 = (1 + v^2)^2`. The usual form :math:`\sigma\epsilon + F\eta` needs
:math:`D + r` noises and a solve to score its own sample; this one needs :math:`D` and none. Only the
:math:`r \times r` matrix :math:`I + V^\top V`, whose eigenvalues are at least one, is ever factorised.

As ``A`` is quadratic in ``V``, a head that gave ``V`` itself would let it explode far from the data's centre. The head
gives :math:`F`, and :math:`V = F\,(1 + \lVert F \rVert^2)^{-1/4}` reaches the same matrices, but grows like a square root.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amortvi._checks import positive_float, positive_int
from amortvi.errors import FamilyError
from amortvi.families.base import SCALE_GAIN, GaussianFamily
from amortvi.families.gaussian import ScaleOperator, from_columns, to_columns

__all__ = ["LowRank", "LowRankFamily", "LowRankScale"]


class LowRankScale(ScaleOperator):
    """``A = diag(exp(log_scale)) (I + V V')``.

    Args:
        log_scale: shape ``(*B, D)``.
        factor: ``V``, shape ``(*B, D, r)``.
    """

    def __init__(self, log_scale: Tensor, factor: Tensor) -> None:
        self.log_scale = log_scale
        self.factor = factor

    def _capacitance(self) -> Tensor:
        """``I + V' V``, shape ``(*B, r, r)``."""
        rank = self.factor.shape[-1]
        identity = torch.eye(rank, dtype=self.factor.dtype, device=self.factor.device)
        return identity + self.factor.mT @ self.factor

    def matmul(self, noise: Tensor) -> Tensor:
        columns = to_columns(noise, self.log_scale.dim() - 1)
        mixed = from_columns(self.factor @ (self.factor.mT @ columns), like=noise)
        return self.log_scale.exp() * (noise + mixed)

    def solve(self, residual: Tensor) -> Tensor:
        # Woodbury: (I + V V')^-1 = I - V (I + V' V)^-1 V'.
        standardised = residual * (-self.log_scale).exp()
        columns = to_columns(standardised, self.log_scale.dim() - 1)
        cholesky = torch.linalg.cholesky(self._capacitance())
        correction = self.factor @ torch.cholesky_solve(self.factor.mT @ columns, cholesky)
        return standardised - from_columns(correction, like=standardised)

    def log_abs_det(self) -> Tensor:
        cholesky = torch.linalg.cholesky(self._capacitance())
        return self.log_scale.sum(-1) + 2 * cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def _inner(self) -> Tensor:
        """``2 I + V' V``, shape ``(*B, r, r)``."""
        rank = self.factor.shape[-1]
        return self._capacitance() + torch.eye(rank, dtype=self.factor.dtype, device=self.factor.device)

    def variance(self) -> Tensor:
        correlated = ((self.factor @ self._inner()) * self.factor).sum(-1)
        return (2 * self.log_scale).exp() * (1 + correlated)

    def covariance(self) -> Tensor:
        scale = self.log_scale.exp()
        identity = torch.eye(scale.shape[-1], dtype=scale.dtype, device=scale.device)
        correlated = identity + self.factor @ self._inner() @ self.factor.mT
        return scale.unsqueeze(-1) * correlated * scale.unsqueeze(-2)

    def expand(self, batch_shape: torch.Size) -> LowRankScale:
        return type(self)(
            self.log_scale.expand(batch_shape + self.log_scale.shape[-1:]),
            self.factor.expand(batch_shape + self.factor.shape[-2:]),
        )


class LowRankFamily(GaussianFamily):
    """Gaussian with covariance "diagonal plus rank ``rank``": ``2 D + D rank`` parameters.

    Args:
        dim: ``D``, the number of latent dimensions.
        context_features: ``C``, the size of the encoder's output.
        rank: ``r``, from 1 to ``D``.
        mixing_rate: how fast the head's ``F`` moves, relative to the locations, as for `FullCovariance`.
        head: ``False`` takes the context as the parameters ``(loc, log scale, F row by row)`` directly.

    Raises:
        OptionError: ``rank`` is not a positive integer.
        FamilyError: ``rank`` is above ``dim``, or ``head=False`` and ``context_features`` does not fit.

    Example:
        >>> import torch
        >>> family = LowRankFamily(dim=4, context_features=5, rank=2)
        >>> family(torch.zeros(3, 5)).covariance_matrix.shape
        torch.Size([3, 4, 4])
    """

    def __init__(
        self, dim: int, context_features: int, *, rank: int, mixing_rate: float = SCALE_GAIN, head: bool = True
    ) -> None:
        if positive_int("rank", rank) > dim:
            raise FamilyError(
                f"rank must be at most the number of latent dimensions, {dim}; got rank={rank}. "
                f"A rank that high is what the family 'full' is for."
            )
        self.rank = rank
        super().__init__(dim, context_features, mixing=dim * rank, mixing_rate=mixing_rate, head=head)

    def initial_scale(self) -> Tensor:
        """Return the usual log scales, and a small random ``F``, since the gradient for ``F`` vanishes at ``F = 0``."""
        raw = super().initial_scale()
        raw[self.dim :] = 0.1 * torch.randn(self.dim * self.rank) / self.dim**0.5
        return raw

    def scale(self, log_scale: Tensor, mixing: Tensor) -> LowRankScale:
        """Read ``mixing`` of shape ``(*B, D r)`` as the rows of ``F``, and draw ``V`` in from it."""
        factor = mixing.unflatten(-1, (self.dim, self.rank))
        size = factor.square().sum((-1, -2), keepdim=True)
        return LowRankScale(log_scale, factor * (1 + size).pow(-0.25))


class LowRank:
    """The choice "diagonal plus rank ``rank``", to be given as ``family=LowRank(5)``.

    Args:
        rank: the rank of the covariance's non-diagonal part, at least 1 and at most the latent dimension.
        mixing_rate: how fast the non-diagonal part moves, relative to the locations, as for `FullCovariance`.

    Raises:
        OptionError: ``rank`` is not a positive integer, or ``mixing_rate`` is not above zero.

    Example:
        >>> LowRank(2)(4, 5).num_parameters
        16
    """

    def __init__(self, rank: int, *, mixing_rate: float = SCALE_GAIN) -> None:
        self.rank = positive_int("rank", rank)
        self.mixing_rate = positive_float("mixing_rate", mixing_rate)

    def __call__(self, dim: int, context_features: int) -> LowRankFamily:
        """Return the family for ``dim`` latent dimensions and a context of ``context_features``."""
        return LowRankFamily(dim, context_features, rank=self.rank, mixing_rate=self.mixing_rate)

    def __repr__(self) -> str:
        rate = "" if self.mixing_rate == SCALE_GAIN else f", mixing_rate={self.mixing_rate}"
        return f"LowRank({self.rank}{rate})"
