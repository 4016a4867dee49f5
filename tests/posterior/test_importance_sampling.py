"""Importance resampling: draws from an inexact posterior become draws from the exact one."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi
from amortvi._util import memory
from amortvi.errors import AmortviWarning, NonFiniteError
from amortvi.posterior.importance_sampling import WeightedDraws, check_proposals
from tests.any_models import CASES
from tests.arviz_versions import groups
from tests.exact import hand_set, solved, with_parameters
from tests.posterior.problem import EXACT, MODEL, WIDEN, LogNormal, X


def errors(draws: Tensor) -> tuple[Tensor, Tensor]:
    """Return the errors of mean and second moment of draws ``(K, N, D)`` in standard errors.

    Observations are independent, so their differences give the Monte Carlo error of the mean over observations.
    """
    residual = draws - EXACT.mean
    mean = residual.mean(0)
    second = torch.einsum("kni,knj->nij", residual, residual) / len(draws) - EXACT.covariance_matrix
    of_mean, of_second = (each.mean(0) / (each.std(0) / math.sqrt(len(each))) for each in (mean, second))
    return of_mean, of_second


@pytest.mark.parametrize(("shift", "limit"), [(0.0, 2**22), (0.5, 2**22), (0.0, 50_000)])
def test_resampling_recovers_the_exact_posterior(shift: float, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a posterior that is too wide, with means off by ``shift`` standard deviations, in chunks of any size."""
    vi = solved(MODEL, widen=WIDEN)
    with torch.no_grad():
        vi.encoder.bias[:3] += shift * EXACT.variance[0].sqrt()
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", limit)
    posterior = vi.posterior(X)
    of_mean, of_second = errors(posterior.sample(300, seed=0)["z"])
    assert of_second.diagonal().min() > 30  # the errors to correct
    assert of_mean.abs().min() > 10 or shift == 0
    draws = posterior.sample(300, resample=True, proposals=6000, seed=0)["z"]
    assert all(error.abs().max() < 5 for error in errors(draws))


def test_constrained_latents() -> None:
    """The exact posterior of a Poisson rate with a Gamma prior is a Gamma; the proposal is log-normal."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    x = torch.poisson(torch.full((200,), 40.0), generator=torch.Generator().manual_seed(0))
    posterior = hand_set(model, LogNormal(0.25, 2, 2), avi.families.Diagonal, x).posterior(x)
    draws = posterior.sample(500, resample=True, proposals=5000, seed=0)["rate"]
    assert draws.shape == (500, 200)
    assert (draws > 0).all()
    for power, exact in ((1, (x + 2) / 2), (2, (x + 2) * (x + 3) / 4)):
        error = draws.pow(power).mean(0) - exact
        assert error.mean().abs() < 5 * error.std() / math.sqrt(200)


def test_unreliable_draws_cause_a_warning() -> None:
    posterior = solved(MODEL, widen=0.3).posterior(X)
    with pytest.warns(
        AmortviWarning, match=r"of 200 observations are unreliable: with 2000 proposals .* 0\.70"
    ) as caught:
        posterior.sample(50, resample=True, proposals=2000, seed=0)
    assert caught[0].filename == __file__
    with pytest.warns(AmortviWarning, match="200 of 200 observations"):  # too few proposals for k-hat
        posterior.sample(10, resample=True, proposals=20, seed=0)


@pytest.mark.parametrize("name", ["many supports", "plates on both sides", "a subsampled plate", "a mask", "keywords"])
def test_any_model(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    posterior = avi.AmortizedVI(case.make(), case.make_encoder(), "full").setup(case.x, seed=0).posterior(case.x)
    with pytest.warns(AmortviWarning, match="observations are unreliable"):
        draws = posterior.sample(5, resample=True, proposals=20, seed=0)
    plain = posterior.sample(5, seed=0)
    assert {name: value.shape for name, value in draws.items()} == {name: value.shape for name, value in plain.items()}
    assert posterior.log_prob(draws).isfinite().all()


def test_exports_can_be_resampled(wide: avi.AmortizedVI) -> None:
    data = groups(wide.to_arviz(X, 300, prior_draws=0, resample=True, proposals=3000, seed=0))
    draws = torch.from_numpy(data["posterior"]["z"].values[0])
    assert all(error.abs().max() < 5 for error in errors(draws))
    # Densities are those of the resampled draws, and no weight is left that could be applied twice.
    stats = data["sample_stats"]
    assert set(stats) == {"log_q", "log_joint"}
    torch.testing.assert_close(torch.from_numpy(stats["log_q"].values[0]), wide.posterior(X).log_prob({"z": draws}))
    assert stats.attrs["resampled_from"] == "3000 draws of the posterior family"


def test_importance_sampling_passes_weighted_draws_of_each_chunk(
    wide: avi.AmortizedVI, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior, rows = wide.posterior(X), []

    def reduce(weighted: WeightedDraws) -> dict[str, Tensor]:
        rows.extend(weighted.rows)
        assert weighted.log_weight.shape == weighted.log_ratio.shape == (50, len(weighted.rows))
        assert weighted.vector.shape == (50, len(weighted.rows), 3)
        (x,) = weighted.batch.args
        log_joint = MODEL.log_evidence(x) + MODEL.posterior(x).log_prob(weighted.vector)
        torch.testing.assert_close(weighted.log_weight, log_joint - weighted.posterior.log_prob(weighted.vector))
        return {"weight": weighted.log_weight.exp().mean(0)}

    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", 5000)
    found = posterior.importance_sample(50, reduce, keep_draws=True)["weight"]
    assert rows == list(range(200))
    assert found.shape == (200,)


def test_invalid_weights_are_reported() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("odd", torch.where((x > 5) & (z > 0), torch.nan, torch.where(x < -5, -torch.inf, 0.0)))

    vi = with_parameters(model, torch.tensor([0.0, 0.2]), torch.zeros(4), avi.families.Diagonal)
    for bad, value in ((9.0, "nan"), (-9.0, "-inf")):
        message = f"observation 2 cannot be resampled: their largest log weight is {value}"
        with pytest.raises(NonFiniteError, match=message):
            vi.posterior(torch.tensor([0.0, 0.0, bad])).sample(10, resample=True)


def test_numbers_of_proposals() -> None:
    assert check_proposals(10, False, None) is None
    assert [check_proposals(*given) for given in ((10, True, None), (500, True, None), (10, True, 30))] == [
        1000,
        5000,
        30,
    ]
