r"""Expected coverage: does a region that claims probability :math:`\alpha` hold the truth that often?

Of each simulation there is one number, the *level* at which a growing family of regions first holds the truth: the
probability under ``q`` of the region on whose edge the truth lies. If ``q`` is exact, levels are uniform. The regions are

- those of highest density of ``q`` (Hermans et al., 2022), or
- balls around a random reference point (Lemos et al., 2023, TARP). Regions around points that depend on the data find
  faults that highest-density regions cannot, such as a posterior that ignores the data.

The expected coverage at :math:`\alpha` is the share of levels below :math:`\alpha`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from amortvi.data import Batch
from amortvi.diagnostics.calibration.findings import Finding
from amortvi.diagnostics.calibration.ranks import uniformity

__all__ = ["REFERENCES", "area_to_curve", "coverage_at", "coverage_test", "reference_points"]

REFERENCES = 5
"""How many families of balls there are: each looks from another side, and some faults show from few of them."""

_ROWS_AT_ONCE = 1024


def coverage_at(
    levels: npt.NDArray[np.float64], claimed: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the expected coverage at claimed probabilities, and the standard error that it has if ``q`` is exact.

    Args:
        levels: of the simulations, ``(n,)``.
        claimed: probabilities, ``(points,)``.

    Returns:
        Two arrays ``(points,)``.
    """
    return (levels[:, None] <= claimed).mean(axis=0), np.sqrt(claimed * (1 - claimed) / len(levels))


def area_to_curve(levels: npt.NDArray[np.float64]) -> tuple[float, float]:
    r"""Return :math:`\int_{1/2}^1 (\text{coverage}(\alpha) - \alpha)\,d\alpha` and its standard error.

    Above zero the posterior covers more than it claims, below zero less.

    Args:
        levels: of the simulations for one or several families of regions, ``(n, families)``.
    """
    area = (1 - np.maximum(levels, 0.5) - 0.375).mean(axis=1)
    return float(area.mean()), float(area.std(ddof=1) / math.sqrt(len(levels)))


def coverage_test(levels: npt.NDArray[np.float64]) -> Finding:
    """Test whether a posterior covers what it claims.

    Args:
        levels: of the simulations for one or several families of regions, ``(n, families)``.

    Returns:
        The mean area between curve and diagonal above one half, ``"overconfident"`` where it is below zero, ``"conservative"``
        where it is above, by more than chance. The p-value is that of the family whose levels are the least uniform.
    """
    p_value = levels.shape[1] * min(uniformity(one)[1] for one in levels.T)
    area, error = area_to_curve(levels)
    word = "not calibrated" if abs(area) < 2.5 * error else "conservative" if area > 0 else "overconfident"
    return Finding(area, min(1.0, p_value), word)


def reference_points(batch: Batch, dim: int) -> Tensor:
    """Return sets of reference points, one point of each set for an observation, in units of its posterior.

    Of each set one random point is common to all, so that a shift shows. Around it each is moved by noise and by a random
    linear function of its observation, so that a posterior which does not follow the data shows too.

    Args:
        batch: ``n`` observations.
        dim: ``D``.

    Returns:
        ``(n, REFERENCES, D)``, in double precision on the CPU.
    """
    moved = torch.zeros(batch.size, REFERENCES * dim, dtype=torch.float64)
    for value in batch.tensors():
        weight = torch.randn(value[0].numel(), REFERENCES * dim, dtype=torch.float64)
        for rows in torch.arange(batch.size).split(_ROWS_AT_ONCE):
            moved[rows] += value[rows.to(value.device)].reshape(len(rows), -1).cpu().double() @ weight
    centred = moved - moved.mean(0)
    # Equal observations have nothing to go by.
    by_data = centred / centred.std(0, correction=0).clamp_min(1e-300)
    around = 0.5 * (torch.randn_like(moved) + by_data)
    return (1.5 * torch.randn(REFERENCES * dim, dtype=torch.float64) + around).unflatten(1, (REFERENCES, dim))
