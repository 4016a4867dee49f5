"""The base class of Gaussian families ``z = loc + A eps``."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from amortvi._util.checks import positive_float
from amortvi.families.base import INITIAL_LOG_SCALE, ParametricFamily
from amortvi.families.gaussian import Gaussian, ScaleOperator

__all__ = ["SCALE_RATE", "GaussianFamily"]

SCALE_RATE = 0.3
"""The learning rate of the parameters of ``A`` relative to that of the locations. A posterior that widens faster than the
decoder learns does the same harm as one that starts wide (measured; see "Initialization" in the design notes)."""


class GaussianFamily(ParametricFamily):
    """A family of Gaussians ``z = loc + A eps``; a subclass builds ``A`` from real numbers.

    The parameters are ``(loc, log_scale, off_diagonal)``: ``D`` locations, ``D`` log scales, and what `scale` needs beside
    them to correlate the coordinates. Scales start as constants, so every Gaussian family starts as the diagonal one.

    Args:
        off_diagonal_rate: the learning rate of the off-diagonal parameters relative to that of the locations; it is divided
            by ``D``.
        head: whether there is a linear head; see `ParametricFamily`.

    Raises:
        OptionError: ``off_diagonal_rate`` is not positive.
        FamilyError: at setup, if there is no head and ``C`` is not the number of parameters.
    """

    def __init__(self, *, off_diagonal_rate: float = SCALE_RATE, head: bool = True) -> None:
        super().__init__(head=head)
        self.off_diagonal_rate = positive_float("off_diagonal_rate", off_diagonal_rate)

    @property
    def num_off_diagonal(self) -> int:
        """The number of parameters beside locations and log scales."""
        return 0

    @abstractmethod
    def scale(self, log_scale: Tensor, off_diagonal: Tensor) -> ScaleOperator:
        """Return ``A``, valid for any real numbers.

        Args:
            log_scale: ``(*B, D)``.
            off_diagonal: ``(*B, num_off_diagonal)``; with zeros, ``A`` should be ``diag(exp(log_scale))``.
        """

    @property
    def num_parameters(self) -> int:
        """``2 D`` plus the number of off-diagonal parameters."""
        return 2 * self.dim + self.num_off_diagonal

    def distribution(self, parameters: Tensor) -> Gaussian:
        """Return the Gaussians with ``parameters`` of shape ``(*B, P)``."""
        loc, log_scale, off_diagonal = parameters.split([self.dim, self.dim, self.num_off_diagonal], dim=-1)
        return Gaussian(loc, self.scale(log_scale, off_diagonal))

    def initial_off_diagonal(self) -> Tensor:
        """Return the off-diagonal parameters at the start, ``(num_off_diagonal,)``."""
        return torch.zeros(self.num_off_diagonal)

    def initial_parameters(self) -> Tensor:
        scales = torch.full((self.dim,), INITIAL_LOG_SCALE)
        return torch.cat([torch.zeros(self.dim), scales, self.initial_off_diagonal()])

    def learning_rates(self) -> Tensor:
        # Up to D off-diagonal parameters affect one coordinate: together they move it no faster than its scale does.
        off_diagonal = [self.off_diagonal_rate / self.dim] * self.num_off_diagonal
        return torch.tensor([1.0] * self.dim + [SCALE_RATE] * self.dim + off_diagonal)

    def parameters_near(self, loc: Tensor, scale: Tensor) -> Tensor:
        off_diagonal = self.initial_off_diagonal().to(loc)
        return torch.cat([loc, scale.log(), off_diagonal.expand(*loc.shape[:-1], -1)], dim=-1)
