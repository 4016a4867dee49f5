r"""How a bound moved over the last epochs of a fit.

Over the last fifth of the epochs a line is fitted to it, robustly (the median of the slopes between all pairs of epochs: Theil,
1950; Sen, 1968), so that one bad epoch does not count. Its standard error is that of a least-squares line under the scatter of
the last half of the epochs around a parabola: by the median absolute deviation, and with :math:`(1 + \rho) / (1 - \rho)` times
the variance where neighbours are correlated by :math:`\rho`. In simulations of flat curves of 50 to 500 epochs with
:math:`\rho` up to 0.8, three to nine of a hundred are beyond the 95 % bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from amortvi._util.lazy import stats

__all__ = ["FEWEST_EPOCHS", "Numbers", "Trend", "fit_trend", "window_of"]

Numbers: TypeAlias = npt.NDArray[np.float64]

FEWEST_EPOCHS = 20
"""Fewer tell nothing."""
_FEWEST_IN_WINDOW = 10
_DOUBLING = 10 * math.log(2)
_MAD = 1.4826
"""Makes a standard deviation of the median absolute deviation of normal numbers."""
_ROUNDS = 10


@dataclass(frozen=True)
class Trend:
    """How a bound moved over the last epochs, in nats an observation.

    Args:
        level: its median there.
        slope: by how much it rose an epoch.
        slope_se: the standard error of that.
        window: over how many epochs.
        epochs: how many there were in all.
        quantile: how many standard errors make a 95 % interval.
    """

    level: float
    slope: float
    slope_se: float
    window: int
    epochs: int
    quantile: float

    @property
    def rise(self) -> float:
        """By how much the bound rose over the window."""
        return self.slope * self.window

    @property
    def gain(self) -> float:
        """What as many epochs again would bring, if the bound rose on like their logarithm."""
        return _DOUBLING * self.slope * self.epochs / 10

    @property
    def gain_margin(self) -> float:
        """Half the width of the 95 % interval of the gain."""
        return _DOUBLING * self.quantile * self.slope_se * self.epochs / 10


def window_of(epochs: int) -> int:
    """Return how many epochs a trend is read from."""
    return max(_FEWEST_IN_WINDOW, math.ceil(epochs / 5))


def fit_trend(values: Numbers, epochs: int) -> Trend | None:
    """Return the trend over the last fifth of ``epochs``, or ``None`` where there are too few."""
    window = window_of(epochs)
    if epochs < FEWEST_EPOCHS or len(values) < window:
        return None

    slope = float(stats.theilslopes(values[-window:]).slope)
    variance = 12 * _scatter(values[-max(window, epochs // 2) :]) / (window * (window**2 - 1))
    return Trend(
        level=float(np.median(values[-window:])),
        slope=slope,
        slope_se=math.sqrt(variance),
        window=window,
        epochs=epochs,
        quantile=float(stats.t.ppf(0.975, window - 2)),
    )


def _scatter(values: Numbers) -> float:
    """Return the variance of the epochs around a parabola, made larger for what neighbours have in common."""
    residual, terms = _around_parabola(values), 3
    spread = _MAD * float(np.median(np.abs(residual))) * math.sqrt(len(values) / (len(values) - terms))
    total = float(residual @ residual)
    if total == 0:
        return 0.0
    # In a short series the autocorrelation comes out too low (Kendall, 1954), the more terms were taken out of it.
    seen = float(residual[:-1] @ residual[1:]) / total
    correlation = min(0.9, max(0.0, seen + (terms + (3 + terms) * seen) / len(values)))
    return spread**2 * (1 + correlation) / (1 - correlation)


def _around_parabola(values: Numbers) -> Numbers:
    """Return what a parabola leaves over, fitted so that outliers do not count (Huber's estimate, by drawing them in)."""
    at = np.linspace(-1, 1, len(values))
    drawn_in = values
    for _ in range(_ROUNDS):
        fitted = np.polynomial.Polynomial.fit(at, drawn_in, 2)(at)
        limit = 2 * _MAD * float(np.median(np.abs(values - fitted)))
        drawn_in = fitted + np.clip(values - fitted, -limit, limit)
    return drawn_in - fitted
