r"""The gain that longer training would bring, estimated from the learning curve.

A bound that rises like the logarithm of the epochs, which is slower than optimizers usually converge, gains the same from each
doubling of the epochs. The slope :math:`s` of the bound against the logarithm of the epoch, fitted to the second half of the
curve, so gives an upper estimate of that gain, :math:`s \log 2`. It has the unit of the bound, and does not depend on how long an
epoch is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["FEWEST_EPOCHS", "Gain", "gain_from_doubling"]

FEWEST_EPOCHS = 20
"""With fewer epochs the gain is unknown."""
_TOLERANCE, _RELATIVE_TOLERANCE = 0.01, 1e-4
"""A gain below this is negligible, in nats per observation or relative to the bound."""
_WIDEST = 30
"""The widest interval that is informative, in tolerances."""


class Gain(NamedTuple):
    """The gain from doubling the epochs, in nats per observation; NaN if it is unknown.

    Args:
        value: the estimate.
        standard_error: its standard error.
        tolerance: the largest gain that does not justify doubling the epochs.
    """

    value: float = math.nan
    standard_error: float = math.nan
    tolerance: float = _TOLERANCE

    def is_below(self, limit: float) -> bool:
        """Whether the gain is known and below ``limit``, or within its noise."""
        return self.value <= max(limit, 2 * self.standard_error)

    @property
    def is_rise(self) -> bool:
        """Whether the bound is known to rise, by more than the tolerance and the noise."""
        return self.value > max(self.tolerance, 2 * self.standard_error)

    @property
    def is_fall(self) -> bool:
        """Whether the bound is known to fall, by more than the tolerance and the noise."""
        return -self.value > max(self.tolerance, 2 * self.standard_error)

    @property
    def is_negligible(self) -> bool:
        """Whether the bound neither rises nor falls, and the noise would have let this be seen."""
        is_informative = 2 * self.standard_error <= _WIDEST * self.tolerance
        return is_informative and not self.is_rise and not self.is_fall


def gain_from_doubling(bounds: Sequence[float]) -> Gain:
    """Estimate the gain from the bound of each epoch so far."""
    if len(bounds) < FEWEST_EPOCHS:
        return Gain()
    first = len(bounds) // 2
    values = np.asarray(bounds[first:])
    time = np.log(np.arange(first + 1, len(bounds) + 1))
    time, centered = time - time.mean(), values - values.mean()
    slope = float(time @ centered / (time @ time))
    residual = centered - slope * time
    variance = float(residual @ residual) / (len(values) - 2) / float(time @ time)
    tolerance = max(_TOLERANCE, _RELATIVE_TOLERANCE * abs(float(values.mean())))
    return Gain(math.log(2) * slope, math.log(2) * math.sqrt(variance), tolerance)
