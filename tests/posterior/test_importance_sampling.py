"""Sampling-importance-resampling: draws of a posterior that is wrong become draws of the exact one."""

import math

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi import _chunks
from amortvi.errors import AmortviWarning, NonFiniteError, OptionError
from amortvi.posterior.posterior import Posterior
from tests.any_models import CASES, Case
from tests.arviz_versions import groups
from tests.exact import held, linear_gaussian, solved

MODEL = linear_gaussian()
X = MODEL.simulate(150, seed=1)
EXACT = MODEL.posterior(X)


@pytest.fixture(scope="module")
def wide() -> avi.AmortizedVI:
    return solved(MODEL, widen=1.5)


def errors(draws: Tensor) -> tuple[Tensor, Tensor]:
    """How far mean and second moment of residuals ``(K, N, D)`` are from the exact posterior's, in standard errors.

    Observations are independent, so that what they differ by is the Monte Carlo error of their mean.
    """
    residual = draws - EXACT.mean
    mean = residual.mean(0)
    second = torch.einsum("kni,knj->nij", residual, residual) / len(draws) - EXACT.covariance_matrix
    return tuple(each.mean(0) / (each.std(0) / math.sqrt(len(each))) for each in (mean, second))


def test_recovers_the_exact_posterior(wide: avi.AmortizedVI) -> None:
    posterior = wide.posterior(X)
    plain = posterior.sample(300, seed=0)["z"]
    assert errors(plain)[1].diagonal().min() > 30  # what is to be corrected
    draws = posterior.sample(300, resample=True, proposals=3000, seed=0)["z"]
    assert draws.shape == plain.shape
    mean, second = errors(draws)
    assert mean.abs().max() < 5
    assert second.abs().max() < 5


def test_recovers_a_shifted_posterior() -> None:
    """A mean that is off by half a standard deviation, in a family that is wider than the posterior."""
    exact = solved(MODEL, widen=1.5)
    with torch.no_grad():
        exact.encoder.bias[:3] += 0.5 * EXACT.variance[0].sqrt()
    posterior = exact.posterior(X)
    assert errors(posterior.sample(300, seed=0)["z"])[0].abs().min() > 10
    mean, second = errors(posterior.sample(300, resample=True, proposals=6000, seed=0)["z"])
    assert mean.abs().max() < 5
    assert second.abs().max() < 5


class LogNormal(nn.Module):
    """The parameters of a log-normal posterior of the rate of a count: about its mean, and half as wide again as it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(0.25)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack((((x + 2) / 2).log(), self.log_scale.expand_as(x)), dim=-1)


def test_a_constrained_latent() -> None:
    """Gamma-Poisson: the exact posterior of the rate is a Gamma; the proposal is a log-normal."""

    def model(x):
        with pyro.plate("data", x.shape[0]):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    x = torch.poisson(torch.full((200,), 40.0), generator=torch.Generator().manual_seed(0))
    posterior = held(model, LogNormal(), avi.families.Diagonal, x).posterior(x)
    draws = posterior.sample(500, resample=True, proposals=5000, seed=0)["rate"]
    assert draws.shape == (500, 200)
    assert (draws > 0).all()
    for power, exact in ((1, (x + 2) / 2), (2, (x + 2) * (x + 3) / 4)):
        error = draws.pow(power).mean(0) - exact
        assert error.mean().abs() < 5 * error.std() / math.sqrt(200)


def test_a_posterior_that_is_too_narrow_warns() -> None:
    posterior = solved(MODEL, widen=0.3).posterior(X)
    with pytest.warns(
        AmortviWarning, match=r"of 150 observations are not to be trusted: with 2000 proposals k-hat .* 0\.70"
    ):
        posterior.sample(50, resample=True, proposals=2000, seed=0)
    with pytest.warns(AmortviWarning, match="150 of 150 observations"):
        posterior.sample(10, resample=True, proposals=20, seed=0)  # too few to tell


def test_reproducible(wide: avi.AmortizedVI) -> None:
    posterior = wide.posterior(X[:10])
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = posterior.sample(20, resample=True, seed=1)["z"]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(posterior.sample(20, resample=True, seed=1)["z"], first)
    assert not torch.equal(posterior.sample(20, resample=True, seed=2)["z"], first)
    torch.testing.assert_close(wide.refine(X[:10], seed=0).sample(20, resample=True, seed=1)["z"].shape, first.shape)


@pytest.mark.parametrize("numbers", [400, 50_000])
def test_in_chunks_of_any_size(wide: avi.AmortizedVI, numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", numbers)
    few = wide.posterior(X[:3]).sample(400, resample=True, seed=0)["z"] - EXACT.mean[:3]
    assert few.shape == (400, 3, 3)
    # 4,000 proposals are worth 1,300 draws: the means vary by a standard deviation over the root of that and of 400.
    scale = EXACT.covariance_matrix[:3].diagonal(dim1=-2, dim2=-1).sqrt()
    assert (few.mean(0) / scale).abs().max() < 5 * math.sqrt(1 / 1300 + 1 / 400)
    torch.testing.assert_close(few.std(0), scale, rtol=5 * math.sqrt(0.5 / 1300 + 0.5 / 400), atol=0)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_any_model(case: Case, recwarn: pytest.WarningsRecorder) -> None:
    pyro.clear_param_store()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(case.make(), case.make_encoder(), "full")
    vi.fit(case.x, epochs=1, seed=0, progress=False)
    posterior = vi.posterior(case.x)
    draws = posterior.sample(5, resample=True, proposals=30, seed=0)
    plain = posterior.sample(5, seed=0)
    assert {name: value.shape for name, value in draws.items()} == {name: value.shape for name, value in plain.items()}
    assert posterior.log_prob(draws).isfinite().all()


def test_export(wide: avi.AmortizedVI) -> None:
    frame = pd.DataFrame(X.numpy(), index=[f"row {i}" for i in range(150)])
    data = groups(wide.to_arviz(frame, 300, prior_draws=0, resample=True, proposals=3000, seed=0))
    draws = torch.from_numpy(data["posterior"]["z"].values[0])
    mean, second = errors(draws)
    assert mean.abs().max() < 5
    assert second.abs().max() < 5
    # What is said of the draws is said of these, and no weight is left that could be applied twice.
    stats = data["sample_stats"]
    assert set(stats) == {"log_q", "log_joint"}
    np.testing.assert_allclose(stats["log_q"].values[0], wide.posterior(X).log_prob({"z": draws}), rtol=1e-9)
    prior = dist.Normal(0.0, 1.0).log_prob(draws).sum(-1)
    expected = data["log_likelihood"]["x"].values[0] + prior.numpy()
    np.testing.assert_allclose(stats["log_joint"].values[0], expected, rtol=1e-9)
    assert stats.attrs["resampled_from"] == "3000 draws of the posterior family"
    predicted = torch.from_numpy(data["posterior_predictive"]["x"].values[0])
    residual = predicted - (draws @ MODEL.W.mT + MODEL.bias)
    assert residual.std() == pytest.approx(float(MODEL.scale), rel=0.01)
    plain = groups(wide.to_arviz(frame, 30, prior_draws=0, seed=0))
    assert "log_weight" in plain["sample_stats"]
    assert "resampled_from" not in plain["sample_stats"].attrs
    with pytest.warns(AmortviWarning, match="observations are not to be trusted"):
        solved(MODEL, widen=0.3).to_arviz(X[:20], 30, resample=True, seed=0)


def test_weights_that_are_no_numbers() -> None:
    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("odd", torch.where((x > 5) & (z > 0), torch.nan, torch.where(x < -5, -torch.inf, 0.0)))

    vi = avi.AmortizedVI(model, avi.encoders.MLP(1, [])).fit(torch.zeros(4), epochs=1, seed=0, progress=False)
    for bad, value in ((9.0, "nan"), (-9.0, "-inf")):
        with pytest.raises(
            NonFiniteError, match=f"observation 2 cannot be resampled: its largest log weight is {value}"
        ):
            vi.posterior(torch.tensor([0.0, 0.0, bad])).sample(10, resample=True)


def test_bad_input(wide: avi.AmortizedVI) -> None:
    posterior = wide.posterior(X[:3])
    for sample in (posterior.sample, lambda draws, **options: wide.to_arviz(X[:3], draws, **options)):
        with pytest.raises(OptionError, match="proposals=50 needs resample=True"):
            sample(10, proposals=50)
        with pytest.raises(OptionError, match=r"proposals must be at least as many as draws, 10, .* got 9"):
            sample(10, resample=True, proposals=9)
        with pytest.raises(OptionError, match="proposals must be a positive integer"):
            sample(10, resample=True, proposals=0)
        with pytest.raises(OptionError, match="resample must be True or False; got 5000"):
            sample(10, resample=5000)
    without = Posterior(posterior.prototype, posterior.source, posterior.observations, posterior.device)
    assert without.sample(2)["z"].shape == (2, 3, 3)
    with pytest.raises(OptionError, match="needs a Posterior that knows its model"):
        without.sample(2, resample=True)
