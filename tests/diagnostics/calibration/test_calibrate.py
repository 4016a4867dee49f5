"""calibrate rarely flags exact posteriors, names and measures the faults of others, and refuses what it cannot calibrate."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy import stats
from torch import Tensor, nn

import amortvi as avi
from amortvi._util import memory
from amortvi.diagnostics.calibration import Calibration, CalibrationTest, calibrate
from amortvi.errors import DataError, ModelError, NonFiniteError, OptionError
from amortvi.families import Diagonal, FullCovariance
from tests.any_models import CASES
from tests.any_models.estimators import fitted, parameters_of
from tests.diagnostics.simulation.test_simulate import NOT_A_DISTRIBUTION, case_set_up
from tests.exact import closest, hand_set, linear_gaussian, one_latent, solved, with_parameters

SIMULATIONS, DRAWS = 1000, 100
CLEAR = 1e-6
"""A fault that must be found has a smaller p-value than this, and the p-values of an exact posterior are larger."""

W = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.3, 0.0, 1.0], [0.0, 0.2, 0.5]], dtype=torch.float64)
MODEL = avi.models.LinearGaussian(W, scale=0.3)
"""The first two latents have a posterior correlation of -0.92."""
EXACT = solved(MODEL)
COVARIANCE = torch.linalg.inv(MODEL.precision())
STD = COVARIANCE.diagonal().sqrt()
CORRELATION = COVARIANCE / STD / STD.unsqueeze(1)


def with_covariance(covariance: Tensor, shift: float = 0.0) -> avi.AmortizedVI:
    """Return exact posterior means, moved by ``shift`` standard deviations, with another covariance."""
    vi = solved(MODEL)
    with torch.no_grad():
        vi.encoder.bias[3:] = closest(vi.guide.family, torch.linalg.inv(covariance))[3:]
        vi.encoder.bias[:3] += shift * STD
    return vi


def prior(model: avi.models.LinearGaussian) -> avi.AmortizedVI:
    """Return posteriors that ignore the data."""
    latents = model.W.shape[1]
    return with_parameters(model, torch.zeros(latents * (latents + 3) // 2, dtype=torch.float64), model.simulate(4))


POSTERIORS: dict[str, Callable[[], avi.AmortizedVI]] = {
    "exact": lambda: EXACT,
    "narrow": lambda: with_covariance(0.36 * COVARIANCE),
    "wide": lambda: with_covariance(2.25 * COVARIANCE),
    "shifted": lambda: with_covariance(COVARIANCE, shift=0.6),
    "uncorrelated": lambda: with_covariance(torch.diag(STD.square())),
    "weakly correlated": lambda: with_covariance(0.3 * COVARIANCE + 0.7 * torch.diag(STD.square())),
    "best diagonal": lambda: solved(MODEL, Diagonal),
    "prior": lambda: prior(MODEL),
}


@cache
def calibrated(posterior: str) -> Calibration:
    return calibrate(POSTERIORS[posterior](), SIMULATIONS, DRAWS, classifier=True, seed=0)


def strongest(calibration: Calibration, kind: str) -> CalibrationTest:
    """Return the most significant test of a kind; joint tests are found by their quantity."""
    tests = [test for test in calibration.tests if kind in (test.kind, test.quantity.rstrip(" 1234"))]
    return min(tests, key=lambda test: test.p_value)


def assert_calibrated(calibration: Calibration) -> None:
    worst = min(calibration.tests, key=lambda test: test.p_value)
    assert worst.p_value > CLEAR, worst


def assert_fault(calibration: Calibration, kind: str, verdict: str) -> None:
    test = strongest(calibration, kind)
    assert test.p_value < CLEAR, test
    assert test.verdict == verdict


OFF, OVER = "not calibrated", "overconfident"
JOINT = {"log likelihood": OFF, "log joint": OFF}
ALL = {**JOINT, "projection": OFF, "classifier": OFF}
NAMED: dict[str, dict[str, str]] = {
    "narrow": {"marginal": "too narrow", "spread": "too narrow", "coverage": OVER, "TARP": OVER, **ALL},
    "wide": {"marginal": "too wide", "spread": "too wide", "coverage": "conservative", "TARP": "conservative", **ALL},
    "shifted": {"marginal": "shifted", "location": "shifted", "coverage": OVER, "TARP": OVER, **ALL},
    "uncorrelated": {"correlation": "missing correlation", "classifier": OFF, **JOINT},
    "weakly correlated": {"correlation": "wrong correlation", **JOINT},
    "best diagonal": {
        **{"spread": "too narrow", "correlation": "missing correlation", "coverage": OVER, "TARP": OVER},
        **{"projection": OFF, "classifier": OFF},
    },
    "prior": JOINT,
    "exact": {},
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
        assert not calibration.is_calibrated
    for kind in SILENT.get(posterior, []):
        test = strongest(calibration, kind)
        assert test.p_value > CLEAR, test
    if posterior == "exact":
        assert_calibrated(calibration)


def test_balls_around_data_dependent_points_find_a_posterior_that_ignores_the_data() -> None:
    model = avi.models.LinearGaussian(torch.tensor([[1.0], [1.0]], dtype=torch.float64), scale=0.2)
    calibration = calibrate(prior(model), 2000, 30, seed=0)
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
    narrow, exact, wide = (calibrated(name).area_to_curve for name in ("narrow", "exact", "wide"))
    assert narrow < -0.03 < exact < 0.03 < wide


class OpaqueFamily(FullCovariance):
    """Its distributions have draws and a density only, like those of a flow."""

    def distribution(self, parameters: Tensor) -> Any:
        return dist.TransformedDistribution(super().distribution(parameters), [dist.transforms.AffineTransform(0, 1)])


@pytest.mark.parametrize("posterior", ["exact", "narrow", "wide", "uncorrelated"])
def test_posteriors_without_closed_form_moments(posterior: str) -> None:
    vi = hand_set(MODEL, POSTERIORS[posterior]().encoder, OpaqueFamily, MODEL.simulate(4))
    calibration = calibrate(vi, SIMULATIONS, DRAWS, seed=0)
    if posterior == "exact":
        assert_calibrated(calibration)
    for kind in {"spread", "correlation"} & NAMED[posterior].keys():
        assert_fault(calibration, kind, NAMED[posterior][kind])


def test_false_alarms_are_as_rare_as_promised() -> None:
    vi = solved(linear_gaussian(2, 3))
    runs = [calibrate(vi, 100, 30, seed=seed) for seed in range(40)]
    false_alarms = sum(not run.is_calibrated for run in runs)
    assert false_alarms <= stats.binom.ppf(1 - 1e-5, len(runs), 0.05)
    for position, test in enumerate(runs[0].tests):
        p_values = [run.tests[position].p_value for run in runs]
        for level in (0.02, 0.1, 0.5):
            below = sum(p < level for p in p_values)
            assert below <= stats.binom.ppf(1 - 1e-5, len(runs), level), (test.quantity, level)


def positive_latents(x: Tensor, gain: Tensor) -> None:
    """A positive latent per part, whose exact posterior is lognormal; ``gain`` is a covariate."""
    with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("parts", 3, dim=-1):
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        pyro.sample("x", dist.Normal(gain.unsqueeze(1) * rate.log(), 0.5), obs=x)


class SolvedPositiveLatents(nn.Module):
    """The parameters of the exact posterior of `positive_latents`, its scales multiplied by ``widen``."""

    def __init__(self, widen: float) -> None:
        super().__init__()
        self.widen = nn.Parameter(torch.tensor(widen))

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        precision = (1 + gain.square() / 0.25).unsqueeze(1).expand(-1, 3)
        return torch.cat([gain.unsqueeze(1) * x / 0.25 / precision, -0.5 * precision.log() + self.widen.log()], dim=1)


@pytest.mark.parametrize(("widen", "fault"), [(1.0, None), (0.6, "too narrow"), (1.6, "too wide")])
def test_constrained_nested_latents_and_covariates(widen: float, fault: str | None) -> None:
    x, gain = torch.zeros(20, 3), torch.linspace(0.5, 2, 20)
    vi = hand_set(positive_latents, SolvedPositiveLatents(widen), Diagonal, (x, gain))
    calibration = calibrate(vi, SIMULATIONS, DRAWS, (x, gain), seed=0)
    assert list(calibration.ranks)[:3] == ["rate[0]", "rate[1]", "rate[2]"]
    if fault is None:
        assert_calibrated(calibration)
    else:
        assert_fault(calibration, "spread", fault)
        assert_fault(calibration, "marginal", fault)


def test_a_single_latent_has_no_correlation_to_test() -> None:
    model = avi.models.LinearGaussian(torch.tensor([[1.0], [0.5]], dtype=torch.float64), scale=0.7)
    assert_calibrated(calibrate(solved(model), SIMULATIONS, DRAWS, seed=0))
    calibration = calibrate(solved(model, widen=0.6), SIMULATIONS, DRAWS, seed=0)
    assert_fault(calibration, "spread", "too narrow")
    assert "correlation" not in {test.kind for test in calibration.tests}
    assert list(calibration.ranks) == ["z[0]", "log likelihood", "log joint"]


def test_data_that_do_not_depend_on_the_latents() -> None:
    """All draws have the same log-likelihood up to rounding."""
    vi = with_parameters(one_latent(dist.Normal(0.0, 1.0)), torch.zeros(2), torch.arange(10.0), Diagonal)
    assert_calibrated(calibrate(vi, SIMULATIONS, DRAWS, seed=0))


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_A_DISTRIBUTION])
def test_every_model_is_calibrated_without_being_changed(name: str) -> None:
    vi = fitted(name)
    before = parameters_of(vi)
    calibration = calibrate(vi, 40, 12, seed=0)
    assert np.isfinite(calibration.to_frame()[["statistic", "p_value", "corrected"]]).all(axis=None)
    assert all(((ranks > 0) & (ranks < 1)).all() for ranks in calibration.ranks.values())
    assert all(torch.equal(before[key], value) for key, value in parameters_of(vi).items())


def test_truth_and_draws_stay_together_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = POSTERIORS["narrow"]()
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", 3000)
    assert_calibrated(calibrate(EXACT, 400, 50, seed=0))
    assert_fault(calibrate(narrow, 400, 50, seed=0), "spread", "too narrow")


def test_refined_posteriors_are_calibrated_even_if_the_encoder_is_not() -> None:
    vi = POSTERIORS["shifted"]()
    assert_fault(calibrate(vi, 200, 60, seed=0), "location", "shifted")
    assert_calibrated(calibrate(vi, 200, 60, posterior=vi.refine, seed=0))


def test_a_simulator_in_place_of_the_model() -> None:
    def simulator(n: int) -> tuple[dict[str, Tensor], Tensor]:
        z = torch.randn(n, 3, dtype=torch.float64)
        return {"z": z}, z @ MODEL.W.mT + 0.3 * torch.randn(n, 4, dtype=torch.float64)

    def noisier(n: int) -> tuple[dict[str, Tensor], Tensor]:
        values, x = simulator(n)
        return values, x + 0.5 * torch.randn(n, 4, dtype=torch.float64)

    assert_calibrated(calibrate(EXACT, 200, 50, simulator=simulator, seed=0))
    assert_fault(calibrate(EXACT, 200, 50, simulator=noisier, seed=0), "spread", "too narrow")


OTHER = EXACT.posterior(MODEL.simulate(20))
NAN = with_parameters(MODEL, torch.full((9,), torch.nan, dtype=torch.float64), MODEL.simulate(4))


@pytest.mark.parametrize(
    ("vi", "options", "error", "message"),
    [
        (EXACT, {"simulations": 19}, OptionError, "simulations must be an integer of at least 20; got 19"),
        (EXACT, {"draws": 9}, OptionError, "draws must be an integer of at least 10"),
        (EXACT, {"simulator": lambda n: n}, OptionError, "simulator"),
        (EXACT, {"posterior": lambda x: None}, OptionError, "posterior must be a function .* that returned None"),
        (EXACT, {"posterior": OTHER}, OptionError, "posterior must be a function .* got Posterior"),
        (EXACT, {"posterior": lambda x: solved(MODEL).posterior(x)}, OptionError, "another AmortizedVI"),
        (EXACT, {"posterior": lambda x: OTHER}, DataError, "posterior"),
        (NAN, {}, NonFiniteError, "of the simulated data"),
        (case_set_up("a factor"), {}, ModelError, "simulator="),
    ],
)
def test_bad_arguments(vi: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        calibrate(vi, **{"simulations": 20, "draws": 10, **options})
