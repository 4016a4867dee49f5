r"""Simulation-based calibration: ranks of the truth among draws of the posterior (Talts et al., 2018).

For a latent :math:`z^*` drawn from the prior and data drawn from it, :math:`z^*` is itself a draw from the exact posterior.
So if ``q`` is exact, the rank of :math:`f(z^*)` among :math:`f(z_1), \dots, f(z_K)`, :math:`z_k \sim q(z \mid x)`, is
uniform on :math:`0, \dots, K`, for any quantity :math:`f` of latents and data. Ranks are taken as numbers in (0, 1) here,

.. math::

    u = \frac{\#\{k : f(z_k) < f(z^*)\} + U\,(1 + \#\{k : f(z_k) = f(z^*)\})}{K + 1}, \quad U \sim \mathrm{Uniform}(0, 1),

which are exactly uniform, ties or not.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from amortvi._util.checks import positive_int
from amortvi._util.lazy import stats
from amortvi.errors import OptionError

__all__ = ["ecdf_band", "shape_of", "uniform_ranks", "uniformity"]

_MOST_BINS, _LEAST_PER_BIN = 20, 20
_BAND_SIMULATIONS = 4000


def uniform_ranks(truth: Tensor, draws: Tensor) -> Tensor:
    """Return the randomised ranks of true values among draws.

    Args:
        truth: any shape ``S``.
        draws: ``(K, *S)``.

    Returns:
        Numbers strictly between 0 and 1, of shape ``S``, in double precision.

    Example:
        >>> ranks = uniform_ranks(torch.tensor([0.0, 9.0]), torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]))
        >>> bool(0 < ranks[0] < 0.25), bool(0.75 < ranks[1] < 1)
        (True, True)
    """
    below, equal = (draws < truth).sum(0), (draws == truth).sum(0)
    place = torch.rand(truth.shape, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
    return (below + place * (equal + 1)) / (draws.shape[0] + 1)


def uniformity(ranks: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Test whether numbers are uniform on (0, 1).

    Two tests share the error: the Kolmogorov-Smirnov test sees a shift best, the chi-squared test on bins sees a shape.

    Args:
        ranks: ``(n,)``.

    Returns:
        The Kolmogorov-Smirnov distance, and twice the smaller p-value of the two.
    """

    distance = stats.kstest(ranks, "uniform")
    bins = min(_MOST_BINS, max(2, len(ranks) // _LEAST_PER_BIN))
    counts, _ = np.histogram(ranks, bins=bins, range=(0, 1))
    return float(distance.statistic), min(1.0, 2 * min(float(distance.pvalue), float(stats.chisquare(counts).pvalue)))


def shape_of(ranks: npt.NDArray[np.float64]) -> str:
    """Say in a word how ranks that are not uniform are shaped: a slope, a U or a hump.

    Returns:
        ``"shifted"``, ``"too narrow"`` (the truth is often beyond the draws), ``"too wide"``, or ``"not calibrated"`` where it
        is none of them.
    """
    slope = abs(float(ranks.mean()) - 0.5) * math.sqrt(12 * len(ranks))
    hollow = (float(ranks.var()) - 1 / 12) * math.sqrt(180 * len(ranks))
    if max(slope, abs(hollow)) < 2:  # standard errors
        return "not calibrated"
    if slope > abs(hollow):
        return "shifted"
    return "too narrow" if hollow > 0 else "too wide"


def ecdf_band(
    simulations: int, *, probability: float = 0.95, points: int = 100
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the band in which the empirical distribution function of uniform numbers lies everywhere, with a probability.

    Binomial intervals at all points at once, their common level found by simulation (Säilynoja, Bürkner and Vehtari, 2022).

    Args:
        simulations: how many numbers, ``n``.
        probability: that all of the function is inside.
        points: at how many points, evenly spread.

    Returns:
        The points, the lower and the upper end of the band, each ``(points,)``.

    Raises:
        OptionError: a number is not a positive integer, or ``probability`` not strictly between 0 and 1.
    """

    count, cells = positive_int("simulations", simulations), positive_int("points", points)
    if not 0 < probability < 1:
        raise OptionError(f"probability must lie strictly between 0 and 1; got {probability!r}.")
    at = np.arange(1, cells + 1) / cells
    at[-1] = 1.0
    numbers = np.arange(count + 1)[:, None]
    # The level of the narrowest two-sided interval around a count, at each point.
    level = 2 * np.minimum(stats.binom.cdf(numbers, count, at), stats.binom.sf(numbers - 1, count, at))
    generator = np.random.default_rng(0)
    counts = generator.multinomial(count, np.full(cells, 1 / cells), size=_BAND_SIMULATIONS).cumsum(axis=1)
    narrowest = level[counts, np.arange(cells)].min(axis=1)
    inside = level >= np.quantile(narrowest, 1 - probability)
    lower = inside.argmax(axis=0) / count
    upper = (count - inside[::-1].argmax(axis=0)) / count
    return at, lower, upper
