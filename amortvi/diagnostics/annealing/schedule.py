"""The inverse temperatures of an annealed path."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["sigmoidal"]

_STEEPNESS = 4.0
"""How much more closely the temperatures stand at both ends than in the middle; the value of Wu et al. (2017)."""


def sigmoidal(temperatures: int) -> Tensor:
    """Return inverse temperatures from 0 to 1, close together at both ends, where densities change most.

    Args:
        temperatures: ``T``, the number of steps between them.

    Returns:
        ``(T + 1,)`` in double precision, rising.

    Example:
        >>> sigmoidal(4)
        tensor([0.0000, 0.1050, 0.5000, 0.8950, 1.0000], dtype=torch.float64)
    """
    raw = torch.linspace(-_STEEPNESS, _STEEPNESS, temperatures + 1, dtype=torch.float64).sigmoid()
    return (raw - raw[0]) / (raw[-1] - raw[0])
