r"""The Gaussian with any covariance, by its Cholesky factor straight from the head.

The factor is :math:`A = \operatorname{diag}(\sigma)\,(I + N)` with :math:`N` strictly lower triangular: every real ``raw``
gives a valid factor, no matrix is ever factorised, so nothing can be "singular". Measuring the off-diagonal part in
units of the row's own :math:`\sigma_i` keeps one learning rate right for narrow and wide coordinates alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from amortvi.families.base import SCALE_GAIN, GaussianFamily
from amortvi.families.folded import FoldedTriangle, folded_order
from amortvi.families.gaussian import ScaleOperator, from_columns, to_columns

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
        mixed = from_columns(self.lower.matmul(to_columns(noise, self.log_scale.dim() - 1)), like=noise)
        return self.log_scale.exp() * (noise + mixed)

    def solve(self, residual: Tensor) -> Tensor:
        standardised = residual * (-self.log_scale).exp()
        columns = to_columns(standardised, self.log_scale.dim() - 1)
        solved = torch.linalg.solve_triangular(self.lower.dense(), columns, upper=False, unitriangular=True)
        return from_columns(solved, like=standardised)

    def log_abs_det(self) -> Tensor:
        return self.log_scale.sum(-1)

    def variance(self) -> Tensor:
        return (2 * self.log_scale).exp() * (1 + self.lower.row_sums_of_squares())

    def covariance(self) -> Tensor:
        cholesky = self.cholesky()
        return cholesky @ cholesky.mT

    def cholesky(self) -> Tensor:
        """Return the matrix ``A`` itself, shape ``(*B, D, D)``."""
        identity = torch.eye(self.lower.dim, dtype=self.log_scale.dtype, device=self.log_scale.device)
        return self.log_scale.exp().unsqueeze(-1) * (identity + self.lower.dense())

    def expand(self, batch_shape: torch.Size) -> TriangularScale:
        log_scale = self.log_scale.expand(batch_shape + self.log_scale.shape[-1:])
        return type(self)(log_scale, self.lower.expand(batch_shape))


class FullCovariance(GaussianFamily):
    """Gaussian with a full covariance: ``2 D + D (D - 1) / 2`` parameters, starting as the diagonal one.

    Args:
        dim: ``D``, the number of latent dimensions.
        context_features: ``C``, the size of the encoder's output.
        mixing_rate: how fast the head's off-diagonal numbers move, relative to the locations. With ``0.01`` a decoder that
            is trained at the same time does not lose directions to a posterior that widens before it is used (see
            "Initialisation" in the design notes); where the model is fixed, that only takes longer.
        head: ``False`` takes the context as the parameters ``(loc, log scale, strictly lower rows)`` directly; it then
            starts where the encoder starts, and moves as fast.

    Raises:
        FamilyError: ``head=False`` and ``context_features`` is not the number of parameters.
        OptionError: ``mixing_rate`` is not above zero.

    Example:
        >>> import torch
        >>> family = FullCovariance(dim=3, context_features=5)
        >>> family(torch.zeros(4, 5)).covariance_matrix.shape
        torch.Size([4, 3, 3])
    """

    order: Tensor | None

    def __init__(self, dim: int, context_features: int, *, mixing_rate: float = SCALE_GAIN, head: bool = True) -> None:
        below = dim * (dim - 1) // 2
        super().__init__(dim, context_features, mixing=below, mixing_rate=mixing_rate, head=head)
        # A head may learn the numbers in any order; an encoder of the user's gives the rows one after the other.
        self.register_buffer("order", None if head else folded_order(dim), persistent=False)

    def scale(self, log_scale: Tensor, mixing: Tensor) -> TriangularScale:
        """Read ``mixing`` of shape ``(*B, D (D - 1) / 2)`` as ``N``."""
        folded = mixing if self.order is None else mixing.index_select(-1, self.order)
        return TriangularScale(log_scale, FoldedTriangle(folded, self.dim))
