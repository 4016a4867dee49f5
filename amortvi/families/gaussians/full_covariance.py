r"""The Gaussian with any covariance, parametrized by its Cholesky factor.

The factor is :math:`A = \operatorname{diag}(\sigma)\,(I + N)` with :math:`N` strictly lower triangular. Any real numbers give
a valid factor and no matrix is factorized, so no "singular matrix" error can occur. The off-diagonal elements of a row are in
units of its :math:`\sigma_i`, so one learning rate suits narrow and wide coordinates.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amortvi.families.gaussians.folded import FoldedTriangle, folded_order
from amortvi.families.gaussians.gaussian import GaussianFamily, ScaleOperator, from_columns, standardized, to_columns

__all__ = ["FullCovariance", "TriangularScale"]


class TriangularScale(ScaleOperator):
    """``A = diag(exp(log_scale)) (I + N)``, lower triangular.

    Args:
        log_scale: logarithms of the diagonal of ``A``, shape ``(*B, D)``.
        lower: ``N``, strictly lower triangular, batch shape ``*B``.
    """

    def __init__(self, log_scale: Tensor, lower: FoldedTriangle) -> None:
        self.log_scale = log_scale
        self.lower = lower

    def matmul(self, noise: Tensor) -> Tensor:
        correlated = from_columns(self.lower.matmul(to_columns(noise, self.log_scale.dim() - 1)), like=noise)
        return self.log_scale.exp() * (noise + correlated)

    def solve(self, residual: Tensor) -> Tensor:
        distance = standardized(residual, self.log_scale)
        columns = to_columns(distance, self.log_scale.dim() - 1)
        solved = torch.linalg.solve_triangular(self.lower.dense(), columns, upper=False, unitriangular=True)
        return from_columns(solved, like=distance)

    def log_abs_det(self) -> Tensor:
        return self.log_scale.sum(-1)

    def variance(self) -> Tensor:
        return (2 * self.log_scale).exp() * (1 + self.lower.row_sums_of_squares())

    def covariance(self) -> Tensor:
        identity = torch.eye(self.lower.dim, dtype=self.log_scale.dtype, device=self.log_scale.device)
        cholesky = self.log_scale.exp().unsqueeze(-1) * (identity + self.lower.dense())
        return cholesky @ cholesky.mT

    def expand(self, batch_shape: torch.Size) -> TriangularScale:
        log_scale = self.log_scale.expand(batch_shape + self.log_scale.shape[-1:])
        return type(self)(log_scale, self.lower.expand(batch_shape))


class FullCovariance(GaussianFamily):
    """Gaussian with a full covariance matrix and ``2 D + D (D - 1) / 2`` parameters.

    Args:
        off_diagonal_rate: the learning rate of the off-diagonal parameters relative to that of the locations; it is divided
            by ``D``. While a model is trained with its posterior, it is zero at first (see "Initialization and phases" in the
            design notes).
        head: whether there is a linear head; without one, the context itself is ``(loc, log_scale, strictly lower rows)``.

    Raises:
        OptionError: ``off_diagonal_rate`` is not positive.
        FamilyError: at setup, if there is no head and ``C`` is not the number of parameters.

    Example:
        >>> family = FullCovariance().setup(dim=3, context_features=5)
        >>> family(torch.zeros(4, 5)).covariance_matrix.shape
        torch.Size([4, 3, 3])
    """

    order: Tensor | None

    @property
    def num_off_diagonal(self) -> int:
        return self.dim * (self.dim - 1) // 2

    def build(self) -> None:
        super().build()
        # A head can learn the elements of N in any order; an encoder without a head returns them row by row.
        self.register_buffer("order", None if self.head else folded_order(self.dim), persistent=False)

    def scale(self, log_scale: Tensor, off_diagonal: Tensor) -> TriangularScale:
        """Return ``A`` with ``off_diagonal`` of shape ``(*B, D (D - 1) / 2)`` as the elements of ``N``."""
        folded = off_diagonal if self.order is None else off_diagonal.index_select(-1, self.order)
        return TriangularScale(log_scale, FoldedTriangle(folded, self.dim))
