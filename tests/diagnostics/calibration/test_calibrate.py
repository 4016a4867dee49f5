"""calibrate rarely flags exact posteriors, works for every model, and refuses what it cannot calibrate."""

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
from amortvi._util import chunks
from amortvi.diagnostics.calibration import calibrate
from amortvi.errors import DataError, ModelError, NonFiniteError, NotFittedError, OptionError
from amortvi.families import Diagonal
from tests.any_models import CASES
from tests.diagnostics.calibration.posteriors import (
    DRAWS,
    MODEL,
    POSTERIORS,
    SIMULATIONS,
    assert_calibrated,
    assert_fault,
)
from tests.diagnostics.simulation.test_simulate import NOT_A_DISTRIBUTION
from tests.exact import Fixed, hand_set, linear_gaussian, one_latent, solved


def test_false_alarms_are_as_rare_as_promised() -> None:
    vi = solved(linear_gaussian(2, 3))
    runs = [calibrate(vi, 100, 30, seed=seed) for seed in range(60)]
    false_alarms = sum(not run.is_calibrated for run in runs)
    assert false_alarms <= stats.binom.ppf(1 - 1e-5, len(runs), 0.05)
    for position, test in enumerate(runs[0].tests):
        p_values = [run.tests[position].p_value for run in runs]
        for level in (0.02, 0.1, 0.5):
            below = sum(p < level for p in p_values)
            assert below <= stats.binom.ppf(1 - 1e-5, len(runs), level), (test.quantity, level)


PARTS = 3


def positive_latents(x: Tensor, gain: Tensor) -> None:
    """A positive latent per part, whose exact posterior is lognormal; ``gain`` is a covariate."""
    with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("parts", PARTS, dim=-1):
        rate = pyro.sample("rate", dist.LogNormal(0.0, 1.0))
        pyro.sample("x", dist.Normal(gain.unsqueeze(1) * rate.log(), 0.5), obs=x)


class SolvedPositiveLatents(nn.Module):
    """The parameters of the exact posterior of `positive_latents`, its scales multiplied by ``widen``."""

    def __init__(self, widen: float) -> None:
        super().__init__()
        self.widen = nn.Parameter(torch.tensor(widen))

    def forward(self, x: Tensor, gain: Tensor) -> Tensor:
        precision = (1 + gain.square() / 0.25).unsqueeze(1).expand(-1, PARTS)
        return torch.cat([gain.unsqueeze(1) * x / 0.25 / precision, -0.5 * precision.log() + self.widen.log()], dim=1)


@pytest.mark.parametrize(("widen", "verdict"), [(1.0, "calibrated"), (0.6, "too narrow"), (1.6, "too wide")])
def test_constrained_nested_latents_and_covariates(widen: float, verdict: str) -> None:
    x, gain = torch.zeros(20, PARTS), torch.linspace(0.5, 2, 20)
    vi = hand_set(positive_latents, SolvedPositiveLatents(widen), Diagonal, (x, gain))
    calibration = calibrate(vi, SIMULATIONS, DRAWS, (x, gain), seed=0)
    assert list(calibration.ranks)[:3] == ["rate[0]", "rate[1]", "rate[2]"]
    if verdict == "calibrated":
        assert_calibrated(calibration)
    else:
        assert_fault(calibration, "spread", verdict)
        assert_fault(calibration, "marginal", verdict)


def test_a_single_latent_has_no_correlation_to_test() -> None:
    model = avi.models.LinearGaussian(torch.tensor([[1.0], [0.5]], dtype=torch.float64), scale=0.7)
    assert_calibrated(calibrate(solved(model), SIMULATIONS, DRAWS, seed=0))
    calibration = calibrate(solved(model, widen=0.6), SIMULATIONS, DRAWS, seed=0)
    assert_fault(calibration, "spread", "too narrow")
    assert "correlation" not in {test.kind for test in calibration.tests}
    assert list(calibration.ranks) == ["z[0]", "log likelihood", "log joint"]


def test_data_that_do_not_depend_on_the_latents() -> None:
    """All draws have the same log-likelihood up to rounding."""
    vi = hand_set(one_latent(dist.Normal(0.0, 1.0)), Fixed(torch.zeros(1, 2)), Diagonal, torch.arange(10.0))
    assert_calibrated(calibrate(vi, SIMULATIONS, DRAWS, seed=0))


@pytest.mark.parametrize("name", [name for name in CASES if name not in NOT_A_DISTRIBUTION])
def test_every_model_is_calibrated_without_being_changed(name: str) -> None:
    case = CASES[name]
    vi = avi.AmortizedVI(case.make(), case.make_encoder(), "full").setup(case.x, seed=0)
    parameters = [p.detach().clone() for p in (*vi.guide.parameters(), *vi.generative.parameters())]
    calibration = calibrate(vi, 40, 12, seed=0)
    frame = calibration.to_frame()
    assert np.isfinite(frame[["statistic", "p_value", "corrected"]]).all(axis=None)
    assert all(((ranks > 0) & (ranks < 1)).all() for ranks in calibration.ranks.values())
    after = [*vi.guide.parameters(), *vi.generative.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(parameters, after, strict=True))


def test_truth_and_draws_stay_together_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, narrow = solved(MODEL), POSTERIORS["narrow"]()
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", 3000)
    assert_calibrated(calibrate(exact, 400, 50, seed=0))
    assert_fault(calibrate(narrow, 400, 50, seed=0), "spread", "too narrow")


def test_a_seed_reproduces_the_result_and_leaves_the_random_state() -> None:
    vi = solved(MODEL)
    before = torch.get_rng_state()
    one, other = (calibrate(vi, 60, 20, seed=2) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    pd.testing.assert_frame_equal(one.to_frame(), other.to_frame())
    assert not calibrate(vi, 60, 20, seed=3).to_frame().equals(one.to_frame())


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

    assert_calibrated(calibrate(solved(MODEL), 200, 50, simulator=simulator, seed=0))
    assert_fault(calibrate(solved(MODEL), 200, 50, simulator=noisier, seed=0), "spread", "too narrow")


def test_log_densities_that_are_nan() -> None:
    vi = solved(MODEL)
    with torch.no_grad():
        vi.encoder.bias[-1] = torch.nan
    with pytest.raises(NonFiniteError, match="simulated from the prior"):
        calibrate(vi, 20, 10, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"simulations": 19}, "simulations must be at least 20 and draws at least 10; got 19 and 200"),
        ({"draws": 9}, "got 1000 and 9"),
        ({"draws": 1.5}, "draws"),
        ({"seed": -1}, "seed"),
        ({"simulator": lambda n: n}, "simulator"),
        ({"posterior": lambda x: None}, "posterior must be a function .* got a function that returned None"),
        ({"posterior": solved(MODEL).posterior(MODEL.simulate(20))}, "posterior must be a function .* got Posterior"),
        ({"posterior": lambda x: solved(MODEL).posterior(x)}, "another AmortizedVI"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        calibrate(solved(MODEL), **{"simulations": 20, **options} if "draws" not in options else options)


def test_a_posterior_of_other_data_is_refused() -> None:
    vi = solved(MODEL)
    with pytest.raises(DataError, match="posterior"):
        calibrate(vi, 20, 10, posterior=lambda x: vi.posterior(MODEL.simulate(20)))


def test_what_cannot_be_calibrated() -> None:
    with pytest.raises(NotFittedError):
        calibrate(avi.AmortizedVI(MODEL, avi.encoders.MLP(4, [])))
    case = CASES["a factor"]
    vi = avi.AmortizedVI(case.make(), case.make_encoder()).setup(case.x)
    with pytest.raises(ModelError, match="simulator="):
        calibrate(vi, 20, 10)
