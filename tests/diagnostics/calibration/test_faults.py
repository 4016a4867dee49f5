"""calibrate finds and names the faults of posteriors, and measures their size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pyro import distributions as dist
from scipy import stats
from torch import Tensor

import amortvi as avi
from amortvi.diagnostics.calibration import calibrate
from amortvi.families import FullCovariance
from tests.diagnostics.calibration.posteriors import (
    CLEAR,
    CORRELATION,
    DRAWS,
    MODEL,
    POSTERIORS,
    SIMULATIONS,
    assert_calibrated,
    assert_fault,
    calibrated,
    strongest,
)
from tests.exact import hand_set, solved

OFF = "not calibrated"
NAMED: dict[str, dict[str, str]] = {
    "narrow": {
        **{"marginal": "too narrow", "spread": "too narrow", "coverage": "overconfident", "TARP": "overconfident"},
        **{"log likelihood": OFF, "log joint": OFF, "projection": OFF, "classifier": OFF},
    },
    "wide": {
        **{"marginal": "too wide", "spread": "too wide", "coverage": "conservative", "TARP": "conservative"},
        **{"log likelihood": OFF, "log joint": OFF, "projection": OFF, "classifier": OFF},
    },
    "shifted": {
        **{"marginal": "shifted", "location": "shifted", "coverage": "overconfident", "TARP": "overconfident"},
        **{"log likelihood": OFF, "log joint": OFF, "projection": OFF, "classifier": OFF},
    },
    "uncorrelated": {
        **{"correlation": "missing correlation", "log likelihood": OFF, "log joint": OFF, "classifier": OFF},
    },
    "weakly correlated": {"correlation": "wrong correlation", "log likelihood": OFF, "log joint": OFF},
    "best diagonal": {
        **{"spread": "too narrow", "correlation": "missing correlation", "coverage": "overconfident"},
        **{"TARP": "overconfident", "projection": OFF, "classifier": OFF},
    },
    "prior": {"log likelihood": OFF, "log joint": OFF},
}
"""For each posterior the tests that find its fault, with their verdicts."""

SILENT: dict[str, list[str]] = {
    "narrow": ["correlation"],
    "wide": ["location", "correlation"],
    "shifted": ["correlation"],
    "uncorrelated": ["marginal", "location"],
    "weakly correlated": ["marginal", "location"],
    "prior": ["marginal", "coverage", "location", "spread", "correlation", "classifier"],
}
"""For each posterior the tests that find nothing, because what they test is right."""


@pytest.mark.parametrize("posterior", NAMED)
def test_faults_are_found_and_named(posterior: str) -> None:
    calibration = calibrated(posterior)
    for kind, verdict in NAMED[posterior].items():
        assert_fault(calibration, kind, verdict)
    for kind in SILENT.get(posterior, []):
        test = strongest(calibration, kind)
        assert test.p_value > CLEAR, test
    assert not calibration.is_calibrated


def test_an_exact_posterior_has_no_fault() -> None:
    assert_calibrated(calibrated("exact"))


def test_balls_around_data_dependent_points_find_a_posterior_that_ignores_the_data() -> None:
    model = avi.models.LinearGaussian(torch.tensor([[1.0], [1.0]], dtype=torch.float64), scale=0.2)
    vi = solved(model)
    with torch.no_grad():
        vi.encoder.weight.zero_()
        vi.encoder.bias.zero_()
    calibration = calibrate(vi, 2000, 30, seed=0)
    assert strongest(calibration, "TARP").p_value < CLEAR
    assert strongest(calibration, "coverage").p_value > CLEAR


def test_statistics_measure_the_size_of_the_fault() -> None:
    # The statistics are those of the coordinate with the largest effect, each within five standard errors.
    relative = 5 / (2 * SIMULATIONS) ** 0.5
    assert strongest(calibrated("narrow"), "spread").statistic == pytest.approx(1 / 0.6, rel=relative)
    assert strongest(calibrated("wide"), "spread").statistic == pytest.approx(1 / 1.5, rel=relative)
    absolute = 5 / SIMULATIONS**0.5
    remaining = strongest(calibrated("uncorrelated"), "correlation").statistic
    assert remaining == pytest.approx(float(CORRELATION[0, 1]), abs=absolute)
    # A shift by m moves the whitened location by C^-1 m.
    factor = torch.linalg.cholesky(CORRELATION)
    whitened = torch.linalg.solve_triangular(factor, torch.full((3, 1), 0.6, dtype=torch.float64), upper=False)
    location = strongest(calibrated("shifted"), "location").statistic
    assert abs(location) == pytest.approx(float(whitened.abs().max()), abs=absolute)


def test_coverage_is_that_of_a_gaussian_of_another_width() -> None:
    """The level of the truth is a chi-squared probability of a scaled chi-squared variable."""
    levels = np.array([0.5, 0.8, 0.95])
    expected = stats.chi2.cdf(0.36 * stats.chi2.ppf(levels, 3), 3)
    error = np.sqrt(expected * (1 - expected) / SIMULATIONS)
    found = calibrated("narrow").coverage(levels)["highest_density"]
    # The regions are estimated from draws, which adds a bias of the order of 1 / DRAWS.
    assert (np.abs(found - expected) < 5 * error + 2 / DRAWS).all()
    exact = calibrated("exact").coverage(levels)
    for regions in ("highest_density", "around_references"):
        assert (np.abs(exact[regions] - levels) < 5 * exact["standard_error"]).all()
    np.testing.assert_allclose(exact["standard_error"], np.sqrt(levels * (1 - levels) / SIMULATIONS))


def test_the_area_to_the_curve_shows_over_and_underconfidence() -> None:
    narrow, exact, wide = (calibrated(name).area_to_curve for name in ("narrow", "exact", "wide"))
    assert narrow < -0.03 < exact < 0.03 < wide


class WithoutMoments(dist.TorchDistribution):
    """A distribution with draws and a density only, like a flow."""

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012
    has_rsample = True

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        super().__init__(inner.batch_shape, inner.event_shape, validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return self.inner.rsample(sample_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        return self.inner.log_prob(value)


class OpaqueFamily(FullCovariance):
    def distribution(self, parameters: Tensor) -> Any:
        return WithoutMoments(super().distribution(parameters))


@pytest.mark.parametrize("posterior", ["exact", "narrow", "wide", "uncorrelated"])
def test_posteriors_whose_moments_are_unknown(posterior: str) -> None:
    encoder = POSTERIORS[posterior]().encoder
    vi = hand_set(MODEL, encoder, OpaqueFamily, MODEL.simulate(4, seed=0))
    calibration = calibrate(vi, SIMULATIONS, DRAWS, seed=0)
    if posterior == "exact":
        assert_calibrated(calibration)
    for kind in {"spread", "correlation"} & NAMED.get(posterior, {}).keys():
        assert_fault(calibration, kind, NAMED[posterior][kind])
