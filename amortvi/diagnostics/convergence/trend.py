r"""The trend of a bound over the last epochs of a fit.

A line is fitted to the last fifth of the epochs by the Theil-Sen estimator, the median of the slopes between all pairs of
epochs (Theil, 1950; Sen, 1968), so single outliers have no influence. Its standard error is that of a least-squares line. The
residual variance is estimated from the median absolute deviation of the last half of the epochs from a parabola, and
multiplied by :math:`(1 + \rho) / (1 - \rho)` if successive epochs have autocorrelation :math:`\rho`. In simulations of flat
curves of 50 to 500 epochs with :math:`\rho` up to 0.8, three to nine percent of the slopes are outside the 95% interval.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from amortvi._util.lazy import stats

__all__ = ["FEWEST_EPOCHS", "Series", "Trend", "fit_trend", "window_of"]

Series: TypeAlias = npt.NDArray[np.float64]

FEWEST_EPOCHS = 20
"""With fewer epochs no trend is estimated."""
_FEWEST_IN_WINDOW = 10
_MAD_TO_STD = 1.4826
"""The standard deviation of a normal distribution, divided by its median absolute deviation."""
_HUBER_STEPS = 10


@dataclass(frozen=True)
class Trend:
    """The trend of a bound over the last epochs, in nats per observation.

    Args:
        level: the median of the bound over the window.
        slope: its increase per epoch.
        slope_se: the standard error of `slope`.
        window: the number of epochs from which the trend is estimated.
        epochs: the number of epochs in total.
        quantile: half the width of the 95% interval of the slope, in standard errors.
        pace: the slope relative to the mean slope since the first tenth of the epochs: about 1 if the bound rises in a straight
            line, 0.4 if it rises like the logarithm of the epochs, and 0 if it has leveled off; NaN if it is unknown.
        climb: the level minus the bound after the first epoch; NaN if it is unknown.
    """

    level: float
    slope: float
    slope_se: float
    window: int
    epochs: int
    quantile: float
    pace: float = math.nan
    climb: float = math.nan

    @property
    def rise(self) -> float:
        """The increase over the window."""
        return self.slope * self.window

    @property
    def gain(self) -> float:
        """The increase from doubling the number of epochs, if the bound rises like the logarithm of the epochs."""
        return math.log(2) * self.slope * self.epochs

    @property
    def gain_margin(self) -> float:
        """Half the width of the 95% interval of `gain`."""
        return math.log(2) * self.quantile * self.slope_se * self.epochs


def window_of(epochs: int) -> int:
    """Return the number of epochs from which the trend is estimated, given the total."""
    return max(_FEWEST_IN_WINDOW, math.ceil(epochs / 5))


def fit_trend(values: Series, epochs: int) -> Trend | None:
    """Return the trend of ``values``, the bound after each of the last epochs, or ``None`` if there are too few."""
    window = window_of(epochs)
    if epochs < FEWEST_EPOCHS or len(values) < window:
        return None
    slope = float(stats.theilslopes(values[-window:]).slope)
    variance = 12 * _residual_variance(values[-max(window, epochs // 2) :]) / (window * (window**2 - 1))
    level = float(np.median(values[-window:]))
    return Trend(
        level=level,
        slope=slope,
        slope_se=math.sqrt(variance),
        window=window,
        epochs=epochs,
        quantile=float(stats.t.ppf(0.975, window - 2)),
        pace=_pace(values, window, level, slope),
        climb=level - float(values[0]),
    )


def _pace(values: Series, window: int, level: float, slope: float) -> float:
    """Return the slope of the last ``window`` values, whose median is ``level``, relative to that of the earlier ones."""
    start = len(values) // 10
    steps = len(values) - (window + 1) / 2 - start
    rise = level - float(values[start])
    return slope * steps / rise if steps > 0 and rise > 0 else math.nan


def _residual_variance(values: Series) -> float:
    """Return the variance around a parabola, inflated for the autocorrelation of the residuals."""
    residual, terms = _parabola_residuals(values), 3
    spread = _MAD_TO_STD * float(np.median(np.abs(residual))) * math.sqrt(len(values) / (len(values) - terms))
    total = float(residual @ residual)
    if total == 0:
        return 0.0
    # The autocorrelation of a short series is biased downward (Kendall, 1954), the more so the more terms were fitted.
    observed = float(residual[:-1] @ residual[1:]) / total
    correlation = min(0.9, max(0.0, observed + (terms + (3 + terms) * observed) / len(values)))
    return spread**2 * (1 + correlation) / (1 - correlation)


def _parabola_residuals(values: Series) -> Series:
    """Return the residuals from a parabola fitted by Huber's M-estimator: outliers are winsorized, step by step."""
    at = np.linspace(-1, 1, len(values))
    winsorized = values
    for _ in range(_HUBER_STEPS):
        fitted = np.polynomial.Polynomial.fit(at, winsorized, 2)(at)
        limit = 2 * _MAD_TO_STD * float(np.median(np.abs(values - fitted)))
        winsorized = fitted + np.clip(values - fitted, -limit, limit)
    return winsorized - fitted
