"""The gain from doubling the epochs, on curves for which it is known."""

import math

import numpy as np
import pytest

from amortvi.training.learning_curve import FEWEST_EPOCHS, gain_from_doubling

EPOCHS = np.arange(1, 201)


def test_a_logarithmic_curve_gains_its_slope_times_log_two() -> None:
    gain = gain_from_doubling(list(-5 + 0.3 * np.log(EPOCHS)))
    assert gain.value == pytest.approx(0.3 * math.log(2))
    assert gain.standard_error < 1e-9
    assert not gain.is_below(0.2)
    assert gain.is_below(0.21)


def test_an_exponential_curve_gains_less_than_estimated() -> None:
    curve = -np.exp(-EPOCHS / 40)
    doubled = -math.exp(-400 / 40) - curve[-1]
    assert gain_from_doubling(list(curve)).value > doubled


def test_the_standard_error_is_that_of_the_noise() -> None:
    generator = np.random.default_rng(0)
    found = [gain_from_doubling(list(generator.normal(size=200))) for _ in range(400)]
    spread = np.std([gain.value for gain in found])
    # The standard error of a standard deviation of 400 numbers is 3.5 percent.
    assert np.mean([gain.standard_error for gain in found]) == pytest.approx(spread, rel=0.15)
    outside = np.mean([not gain.is_below(0.0) for gain in found])
    assert outside < 0.06  # 2.3 percent are expected


def test_a_short_curve_says_nothing() -> None:
    gain = gain_from_doubling([0.0] * (FEWEST_EPOCHS - 1))
    assert math.isnan(gain.value)
    assert not gain.is_below(math.inf)
