"""calibrate passes exact posteriors at the promised rate, and finds and names what is planted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from scipy import stats
from torch import Tensor, nn

import amortvi as avi
from amortvi import _chunks
from amortvi.diagnostics import Calibration, CalibrationTest, ecdf_band
from amortvi.diagnostics.calibration.ranks import shape_of, uniform_ranks, uniformity
from amortvi.diagnostics.calibration.result import corrected
from amortvi.errors import ModelError, NonFiniteError, NotFittedError, OptionError
from amortvi.families import Diagonal, FullCovariance
from tests.any_models import CASES
from tests.diagnostics.simulation.test_simulate import NOT_A_DISTRIBUTION
from tests.exact import Fixed, held, linear_gaussian, one_latent, solved

SIMULATIONS, DRAWS = 1000, 200


def strongly_correlated() -> avi.models.LinearGaussian:
    """A model whose first two latents have a posterior correlation of -0.92."""
    W = torch.tensor([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.3, 0.0, 1.0], [0.0, 0.2, 0.5]], dtype=torch.float64)
    return avi.models.LinearGaussian(W, scale=0.3)


MODEL = strongly_correlated()


def moved(by: float, family: Any = FullCovariance) -> avi.AmortizedVI:
    """The exact posterior, each latent moved ``by`` of its standard deviations."""
    vi = solved(MODEL, family)
    with torch.no_grad():
        vi.encoder.bias[: MODEL.latent_dim] += by * deviations()
    return vi


def deviations() -> Tensor:
    return torch.linalg.inv(MODEL.precision()).diagonal().sqrt()


def blind() -> avi.AmortizedVI:
    """The exact means and standard deviations, and no correlation."""
    vi = solved(MODEL, Diagonal)
    with torch.no_grad():
        vi.encoder.bias[MODEL.latent_dim :] = deviations().log()
    return vi


def prior() -> avi.AmortizedVI:
    """A posterior that ignores the data."""
    vi = solved(MODEL, Diagonal)
    with torch.no_grad():
        vi.encoder.weight.zero_()
        vi.encoder.bias.zero_()
    return vi


ALL = {"marginal", "log likelihood", "log joint", "projection", "coverage", "TARP", "classifier"}
FAULTS: dict[str, tuple[Any, str, set[str]]] = {
    # The fault, what it is called, and the tests that see it; no other sees it.
    "none": (lambda: solved(MODEL), "calibrated", set()),
    "too narrow": (lambda: solved(MODEL, widen=0.7), "too narrow", ALL | {"spread"}),
    "too wide": (lambda: solved(MODEL, widen=1.4), "too wide", ALL | {"spread"}),
    "shifted": (lambda: moved(0.6), "shifted", ALL | {"location", "spread"}),
    "blind": (blind, "blind to correlation", ALL - {"marginal"} | {"spread", "correlation"}),
    "best diagonal": (
        lambda: solved(MODEL, Diagonal),
        "too narrow, blind to correlation",
        ALL | {"spread", "correlation"},
    ),
    "the prior": (prior, "not calibrated", {"log likelihood", "log joint", "TARP"}),
}


def flagged(calibration: Calibration) -> set[str]:
    """The kinds of tests with a fault, the joint ones by their quantity."""
    found = [test for test in calibration.tests if test.verdict != "calibrated"]
    return {test.quantity.rstrip(" 1234") if test.kind == "joint" else test.kind for test in found}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_seen_and_named(fault: str) -> None:
    make, verdict, seen = FAULTS[fault]
    calibration = avi.calibrate(make(), SIMULATIONS, DRAWS, classifier=True, seed=0)
    assert calibration.verdict == verdict
    assert flagged(calibration) == seen
    assert calibration.is_calibrated == (fault == "none")


def test_false_alarms_are_as_rare_as_promised() -> None:
    vi = solved(linear_gaussian(2, 3))
    runs = [avi.calibrate(vi, 100, 30, seed=seed) for seed in range(60)]
    false_alarms = sum(not run.is_calibrated for run in runs)
    assert false_alarms <= stats.binom.ppf(0.9999, len(runs), 0.05)
    for position, test in enumerate(runs[0].tests):
        p_values = [run.tests[position].p_value for run in runs]
        for level in (0.02, 0.1, 0.5):
            below = sum(p < level for p in p_values)
            assert below <= stats.binom.ppf(1 - 1e-5, len(runs), level), (test.quantity, level)


def test_statistics_say_how_large_a_fault_is() -> None:
    def statistic(vi: avi.AmortizedVI, kind: str) -> float:
        found = [test.statistic for test in avi.calibrate(vi, SIMULATIONS, DRAWS, seed=0).tests if test.kind == kind]
        return found[0]

    error = 5 / (2 * SIMULATIONS) ** 0.5
    assert statistic(solved(MODEL, widen=0.5), "spread") == pytest.approx(2, rel=error)
    assert statistic(solved(MODEL, widen=2.0), "spread") == pytest.approx(0.5, rel=error)
    precision = MODEL.precision()
    covariance = torch.linalg.inv(precision)
    correlation = covariance[0, 1] / (covariance[0, 0] * covariance[1, 1]).sqrt()
    assert statistic(blind(), "correlation") == pytest.approx(float(correlation), abs=5 / SIMULATIONS**0.5)
    # Moved by a vector m, the whitened location moves by C^-1 m, of which the largest is shown.
    factor = torch.linalg.cholesky(covariance / deviations() / deviations().unsqueeze(1))
    whitened = torch.linalg.solve_triangular(factor, torch.full((3, 1), 0.6, dtype=torch.float64), upper=False)
    assert abs(statistic(moved(0.6), "location")) == pytest.approx(
        float(whitened.abs().max()), abs=5 / SIMULATIONS**0.5
    )


def test_coverage_is_that_of_a_gaussian_of_another_width() -> None:
    """The level of the truth is a chi-squared probability of a scaled chi-squared number."""
    levels, widen = np.array([0.5, 0.8, 0.95]), 0.7
    table = avi.calibrate(solved(MODEL, widen=widen), SIMULATIONS, DRAWS, seed=0).coverage(levels)
    expected = stats.chi2.cdf(widen**2 * stats.chi2.ppf(levels, 3), 3)
    error = np.sqrt(expected * (1 - expected) / SIMULATIONS)
    # Regions are found from draws: their own probabilities have an error too, of the second order.
    assert (np.abs(table["highest_density"] - expected) < 5 * error + 2 / DRAWS).all()
    exact = avi.calibrate(solved(MODEL), SIMULATIONS, DRAWS, seed=0).coverage(levels)
    for regions in ("highest_density", "around_references"):
        assert (np.abs(exact[regions] - levels) < 5 * exact["standard_error"]).all()
    np.testing.assert_allclose(exact["standard_error"], np.sqrt(levels * (1 - levels) / SIMULATIONS))


def test_the_area_to_the_curve_has_the_sign_of_the_width() -> None:
    areas = [avi.calibrate(solved(MODEL, widen=w), SIMULATIONS, DRAWS, seed=0).area_to_curve for w in (0.7, 1.0, 1.4)]
    assert areas[0] < -0.02 < areas[1] < 0.02 < areas[2]


class WithoutMoments(FullCovariance):
    """As a flow is: it draws and has a density, and no more."""

    has_closed_form_kl = False
    has_closed_form_moments = False
    has_gaussian_marginals = False


class WithoutMomentsDiagonal(Diagonal):
    has_closed_form_kl = False
    has_closed_form_moments = False
    has_gaussian_marginals = False


@pytest.mark.parametrize(
    ("make", "verdict"),
    [
        (lambda: solved_without_moments(1.0), "calibrated"),
        (lambda: solved_without_moments(0.7), "too narrow"),
        (lambda: solved_without_moments(1.4), "too wide"),
    ],
)
def test_a_family_without_moments(make: Any, verdict: str) -> None:
    assert avi.calibrate(make(), SIMULATIONS, DRAWS, seed=0).verdict == verdict


def solved_without_moments(widen: float) -> avi.AmortizedVI:
    known = solved(MODEL, widen=widen)
    return held(MODEL, known.encoder, WithoutMoments, MODEL.simulate(4, seed=0))


def test_a_family_without_moments_that_is_blind() -> None:
    vi = held(MODEL, blind().encoder, WithoutMomentsDiagonal, MODEL.simulate(4, seed=0))
    assert avi.calibrate(vi, SIMULATIONS, DRAWS, seed=0).verdict == "blind to correlation"


PARTS = 3


def nested(x: Tensor, gain: Tensor) -> None:
    """Positive latents, one for each part, with an exact posterior that is lognormal; ``gain`` is a covariate."""
    with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("parts", PARTS, dim=-1):
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        pyro.sample("x", dist.Normal(gain.unsqueeze(1) * rate.log(), 0.5), obs=x)


class Solved(nn.Module):
    """The exact posterior of `nested`: its parameters, the scales multiplied by ``widen``."""

    def __init__(self, widen: float) -> None:
        super().__init__()
        self.widen = nn.Parameter(torch.tensor(widen))

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        precision = (1 + gain.square() / 0.25).unsqueeze(1).expand(-1, PARTS)
        return torch.cat([gain.unsqueeze(1) * x / 0.25 / precision, -0.5 * precision.log() + self.widen.log()], dim=1)


@pytest.mark.parametrize(("widen", "verdict"), [(1.0, "calibrated"), (0.6, "too narrow"), (1.6, "too wide")])
def test_constrained_nested_latents_and_covariates(widen: float, verdict: str) -> None:
    x, gain = torch.zeros(20, PARTS), torch.linspace(0.5, 2, 20)
    vi = held(nested, Solved(widen), Diagonal, (x, gain))
    calibration = avi.calibrate(vi, SIMULATIONS, DRAWS, (x, gain), seed=1)  # with seed 0 one p-value is 0.03, by chance
    assert calibration.verdict == verdict
    assert list(calibration.ranks)[:3] == ["rate[0]", "rate[1]", "rate[2]"]


def test_a_single_latent_has_no_correlation_to_test() -> None:
    model = avi.models.LinearGaussian(torch.tensor([[1.0], [0.5]], dtype=torch.float64), scale=0.7)
    for widen, verdict in ((1.0, "calibrated"), (0.7, "too narrow")):
        calibration = avi.calibrate(solved(model, widen=widen), SIMULATIONS, DRAWS, seed=0)
        assert calibration.verdict == verdict
        assert "correlation" not in {test.kind for test in calibration.tests}
        assert list(calibration.ranks) == ["z[0]", "log likelihood", "log joint"]


def test_data_that_say_nothing() -> None:
    """The log-likelihood of every draw is the same up to rounding, and so are all observations."""
    vi = held(one_latent(dist.Normal(0.0, 1.0)), Fixed(torch.zeros(1, 2)), Diagonal, torch.randn(10))
    assert avi.calibrate(vi, SIMULATIONS, DRAWS, seed=0).is_calibrated


RUNS = [name for name in CASES if name not in NOT_A_DISTRIBUTION]


@pytest.mark.parametrize("name", RUNS)
def test_any_model(name: str) -> None:
    case = CASES[name]
    vi = avi.AmortizedVI(case.make(), case.make_encoder(), "full").fit(case.x, epochs=2, seed=0, progress=False)
    parameters = [p.detach().clone() for p in (*vi.guide.parameters(), *vi.generative.parameters())]
    calibration = avi.calibrate(vi, 40, 12, seed=0)
    frame = calibration.to_frame()
    assert np.isfinite(frame[["statistic", "p_value", "corrected"]]).all(axis=None)
    assert all(((ranks > 0) & (ranks < 1)).all() for ranks in calibration.ranks.values())
    after = [*vi.guide.parameters(), *vi.generative.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(parameters, after, strict=True))


def test_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Truth and draws of a simulation stay together."""
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", 3000)
    assert avi.calibrate(solved(MODEL), 200, 50, seed=0).is_calibrated
    assert avi.calibrate(solved(MODEL, widen=0.5), 200, 50, seed=0).verdict == "too narrow"


def test_seeds() -> None:
    vi = solved(MODEL)
    before = torch.get_rng_state()
    one, other = (avi.calibrate(vi, 60, 20, seed=2) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    pd.testing.assert_frame_equal(one.to_frame(), other.to_frame())
    assert not avi.calibrate(vi, 60, 20, seed=3).to_frame().equals(one.to_frame())


def test_refined_posteriors() -> None:
    """A bad encoder is to blame for what is gone once each posterior is found by itself."""
    vi = moved(0.6)
    assert avi.calibrate(vi, 200, 60, seed=0).verdict == "shifted"
    assert avi.calibrate(vi, 200, 60, posterior=vi.refine, seed=0).is_calibrated


def test_a_simulator_of_ones_own() -> None:
    def simulator(n: int) -> tuple[dict[str, Tensor], Tensor]:
        z = torch.randn(n, 3, dtype=torch.float64)
        return {"z": z}, z @ MODEL.W.mT + 0.3 * torch.randn(n, 4, dtype=torch.float64)

    assert avi.calibrate(solved(MODEL), 200, 50, simulator=simulator, seed=0).is_calibrated

    def louder(n: int) -> tuple[dict[str, Tensor], Tensor]:
        values, x = simulator(n)
        return values, x + 0.5 * torch.randn(n, 4, dtype=torch.float64)

    assert "too narrow" in avi.calibrate(solved(MODEL), 200, 50, simulator=louder, seed=0).verdict


def test_frame_and_text() -> None:
    calibration = avi.calibrate(blind(), SIMULATIONS, DRAWS, seed=0)
    frame = calibration.to_frame()
    assert list(frame.columns) == ["kind", "quantity", "statistic", "p_value", "corrected", "verdict"]
    assert len(frame) == 3 + 2 + 4 + 1 + 1 + 3
    assert (frame["corrected"] >= frame["p_value"]).all()
    assert repr(calibration) == "Calibration('blind to correlation', 1000 simulations, 200 draws, 14 tests)"
    lines = str(calibration).splitlines()
    assert lines[0] == "blind to correlation (1000 simulations, 200 draws of each, 14 tests)"
    assert len(lines) - 1 == (frame["verdict"] != "calibrated").sum()
    assert any("correlation of whitened latents: blind to correlation (-0.9" in line for line in lines)


def test_holm() -> None:
    p_values = [0.01, 0.04, 0.03, 0.005]
    tests = corrected([CalibrationTest("marginal", "z", 0.0, p, p, "shifted") for p in p_values])
    assert [test.corrected for test in tests] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [test.verdict for test in tests] == ["shifted", "calibrated", "calibrated", "shifted"]


def test_ranks_are_uniform_with_and_without_ties() -> None:
    torch.manual_seed(0)
    for values in (torch.randn(11, 5000), torch.randint(3, (11, 5000)).double(), torch.zeros(11, 5000)):
        assert uniformity(uniform_ranks(values[0], values[1:]).numpy())[1] > 1e-3
    assert uniformity(uniform_ranks(values[0] + 0.1, values[1:]).numpy())[1] < 1e-9


def test_shapes_of_ranks() -> None:
    generator = np.random.default_rng(0)
    scores = generator.normal(size=2000)
    words = {
        "too narrow": 1.5 * scores,
        "too wide": 0.6 * scores,
        "shifted": scores + 0.5,
        "not calibrated": scores,
    }
    for word, values in words.items():
        assert shape_of(stats.norm.cdf(values)) == word
    assert shape_of(np.full(100, 0.999)) == "shifted"


@pytest.mark.parametrize(("simulations", "probability"), [(50, 0.95), (1000, 0.8)])
def test_a_band_holds_uniform_numbers_as_often_as_it_says(simulations: int, probability: float) -> None:
    at, lower, upper = ecdf_band(simulations, probability=probability, points=40)
    generator = np.random.default_rng(1)
    runs = 2000
    counts = generator.multinomial(simulations, np.full(40, 1 / 40), size=runs).cumsum(axis=1) / simulations
    inside = ((lower <= counts) & (counts <= upper)).all(axis=1).mean()
    # Both the band, from 4000 simulations, and this share have an error; counts are whole, so it may hold more.
    error = 5 * (probability * (1 - probability) * (1 / runs + 1 / 4000)) ** 0.5
    assert probability - error < inside < probability + error + 0.03
    assert lower[-1] == upper[-1] == at[-1] == 1


def test_a_density_that_is_not_a_number() -> None:
    vi = solved(MODEL)
    with torch.no_grad():
        vi.encoder.bias[-1] = torch.nan
    with pytest.raises(NonFiniteError, match="the posterior or the model is not finite on data simulated"):
        avi.calibrate(vi, 20, 10, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"simulations": 19}, "simulations must be at least 20 and draws at least 10; got 19 and 200"),
        ({"draws": 9}, "got 1000 and 9"),
        ({"draws": 1.5}, "draws must be a positive integer"),
        ({"seed": -1}, "seed must be an integer"),
        ({"simulations": 20, "posterior": lambda x: x}, "posterior must return the Posterior of the 20 observations"),
        ({"simulations": 20, "simulator": lambda n: n}, "simulator must return a dict"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        avi.calibrate(solved(MODEL), **options)


def test_what_cannot_be_calibrated() -> None:
    with pytest.raises(NotFittedError, match="call fit first"):
        avi.calibrate(avi.AmortizedVI(MODEL, avi.encoders.MLP(4, [])))
    case = CASES["a factor"]
    vi = avi.AmortizedVI(case.make(), case.make_encoder()).fit(case.x, epochs=1, seed=0, progress=False)
    with pytest.raises(ModelError, match="Give simulator="):
        avi.calibrate(vi, 20, 10)
    with pytest.raises(OptionError, match="levels must be probabilities"):
        avi.calibrate(solved(MODEL), 20, 10, seed=0).coverage([0.0, 0.5])
