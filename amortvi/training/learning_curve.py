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


class Gain(NamedTuple):
    """The gain from doubling the epochs, in nats per observation; NaN if it is unknown.

    Args:
        value: the estimate.
        standard_error: its standard error.
    """

    value: float = math.nan
    standard_error: float = math.nan

    def is_below(self, tolerance: float) -> bool:
        """Whether the gain is known and below ``tolerance``, or within its noise."""
        return self.value <= max(tolerance, 2 * self.standard_error)

    def is_loss(self, tolerance: float) -> bool:
        """Whether the bound is known to fall, by more than ``tolerance`` and its noise."""
        return self.value < -max(tolerance, 2 * self.standard_error)


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
    return Gain(math.log(2) * slope, math.log(2) * math.sqrt(variance))
