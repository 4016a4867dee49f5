r"""Expected coverage: whether a region that claims probability :math:`\alpha` contains the truth that often.

A growing family of regions gives one number per simulation, the *level*: the probability under ``q`` of the region on whose
boundary the truth lies. If ``q`` is exact, levels are uniform. The expected coverage at :math:`\alpha` is the fraction of levels
below :math:`\alpha`. The regions are

- the highest-density regions of ``q`` (Hermans et al., 2022), or
- balls around a random reference point (Lemos et al., 2023, TARP). If the points depend on the data, these find faults that
  highest-density regions cannot, such as a posterior that ignores the data.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from amortvi.data import Batch
from amortvi.diagnostics.calibration.ranks import uniformity
from amortvi.diagnostics.calibration.verdicts import NOT_CALIBRATED, Array, CalibrationTest

__all__ = ["REFERENCES", "area_to_curve", "coverage_at", "coverage_test", "reference_points"]

REFERENCES = 5
"""The number of families of balls. Some faults show from a few reference points only."""


def coverage_at(levels: Array, claimed: Array) -> tuple[Array, Array]:
    """Return the expected coverage of levels ``(n,)`` at claimed probabilities, and its standard error for an exact ``q``."""
    return (levels[:, None] <= claimed).mean(axis=0), np.sqrt(claimed * (1 - claimed) / len(levels))


def area_to_curve(levels: Array) -> tuple[float, float]:
    r"""Return :math:`\int_{1/2}^1 (\text{coverage}(\alpha) - \alpha)\,d\alpha` and its standard error.

    The area is averaged over the columns of ``levels``, ``(n, families)``. It is negative for an overconfident posterior.
    """
    area = (1 - np.maximum(levels, 0.5) - 0.375).mean(axis=1)
    return float(area.mean()), float(area.std(ddof=1) / math.sqrt(len(levels)))


def coverage_test(kind: str, quantity: str, levels: Array) -> CalibrationTest:
    """Test whether regions with levels ``(n, families)`` contain the truth as often as they claim.

    The statistic is `area_to_curve`. If it is significant, its sign names the fault: ``"overconfident"`` or
    ``"conservative"``. The p-value is that of the family with the least uniform levels, corrected for the number of families.
    """
    p_value = levels.shape[1] * min(uniformity(one)[1] for one in levels.T)
    area, error = area_to_curve(levels)
    fault = NOT_CALIBRATED if abs(area) < 2.5 * error else "conservative" if area > 0 else "overconfident"
    return CalibrationTest(kind, quantity, area, min(1.0, p_value), fault)


def reference_points(batch: Batch, dim: int) -> Tensor:
    """Return random reference points for each observation, in units of its posterior.

    Each family has a random center common to all observations, which reveals a shift. Around it, the point of an
    observation is moved by noise and by a random linear function of the data, which reveals a posterior that does not follow
    the data.

    Returns:
        ``(n, REFERENCES, dim)``, in double precision on the CPU.
    """
    linear = torch.zeros(batch.size, REFERENCES * dim, dtype=torch.float64)
    for value in batch.tensors():
        weight = torch.randn(value[0].numel(), REFERENCES * dim, dtype=torch.float64)
        # In parts, because large data in double precision may not fit in memory.
        for sums, part in zip(linear.split(1024), value.reshape(batch.size, -1).split(1024), strict=True):
            sums += part.cpu().double() @ weight
    centered = linear - linear.mean(0)
    standardized = centered / centered.std(0, correction=0).clamp_min(1e-300)  # zero if all observations are equal
    around = 0.5 * (torch.randn_like(linear) + standardized)
    return (1.5 * torch.randn(REFERENCES * dim, dtype=torch.float64) + around).unflatten(1, (REFERENCES, dim))
