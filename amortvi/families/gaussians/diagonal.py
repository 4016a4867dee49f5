"""The mean-field Gaussian: independent coordinates."""

from __future__ import annotations

import torch
from torch import Tensor

from amortvi.families.gaussians.gaussian import GaussianFamily, ScaleOperator, standardized

__all__ = ["Diagonal", "DiagonalScale"]


class DiagonalScale(ScaleOperator):
    """``A = diag(exp(log_scale))``, with ``log_scale`` of shape ``(*B, D)``."""

    def __init__(self, log_scale: Tensor) -> None:
        self.log_scale = log_scale

    def matmul(self, noise: Tensor) -> Tensor:
        return self.log_scale.exp() * noise

    def solve(self, residual: Tensor) -> Tensor:
        return standardized(residual, self.log_scale)

    def log_abs_det(self) -> Tensor:
        return self.log_scale.sum(-1)

    def variance(self) -> Tensor:
        return (2 * self.log_scale).exp()

    def covariance(self) -> Tensor:
        return torch.diag_embed(self.variance())

    def expand(self, batch_shape: torch.Size) -> DiagonalScale:
        return type(self)(self.log_scale.expand(batch_shape + self.log_scale.shape[-1:]))


class Diagonal(GaussianFamily):
    """Mean-field Gaussian ``N(loc, diag(scale^2))`` with ``2 D`` parameters, the locations and the log scales.

    Args:
        head: whether there is a linear head; without one, the context itself is ``(loc, log_scale)``, so ``C`` must be ``2 D``.

    Raises:
        FamilyError: at setup, if there is no head and ``C`` is not ``2 D``.

    Example:
        >>> family = Diagonal().setup(dim=2, context_features=5)
        >>> family(torch.zeros(3, 5)).rsample((10,)).shape
        torch.Size([10, 3, 2])
    """

    def __init__(self, *, head: bool = True) -> None:
        super().__init__(head=head)

    def scale(self, log_scale: Tensor, off_diagonal: Tensor) -> DiagonalScale:
        """Return ``diag(exp(log_scale))``."""
        return DiagonalScale(log_scale)
