"""Posterior predictive and prior draws, against the exact predictive distribution and the moments of the model."""

import math
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

import amortvi as avi
from amortvi._util import chunks
from amortvi.errors import NotFittedError, OptionError
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian()
X = MODEL.simulate(12, seed=1)


@pytest.fixture(scope="module")
def vi() -> avi.AmortizedVI:
    return solved(MODEL)


def assert_gaussian(draws: torch.Tensor, mean: torch.Tensor, covariance: torch.Tensor) -> None:
    """``draws``, along the first dimension, have this mean and covariance within Monte Carlo error."""
    count = draws.shape[0]
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((draws.mean(0) - mean) / scale * math.sqrt(count)).abs().max() < 5
    whitened = (draws - mean) / scale
    found = torch.einsum("s...i,s...j->...ij", whitened, whitened) / count
    assert (found - covariance / scale[..., :, None] / scale[..., None, :]).abs().max() < 5 * math.sqrt(2 / count)


def test_predictions_have_the_exact_moments(vi: avi.AmortizedVI) -> None:
    """For the posterior N(m, S), a new x is Gaussian with mean W m + b and covariance W S W' + s^2 I."""
    drawn = vi.predict(X, draws=20_000, seed=0)
    assert list(drawn) == ["x"]
    exact = MODEL.posterior(X)
    covariance = MODEL.W @ exact.covariance_matrix @ MODEL.W.mT + MODEL.scale**2 * torch.eye(5, dtype=torch.float64)
    assert_gaussian(drawn["x"], exact.mean @ MODEL.W.mT + MODEL.bias, covariance)


def test_prior_draws_have_the_moments_of_the_model(vi: avi.AmortizedVI) -> None:
    drawn = vi.sample_prior(50_000, seed=0)
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {"z": (50_000, 3), "x": (50_000, 5)}
    identity = torch.eye(5, dtype=torch.float64)
    assert_gaussian(drawn["z"], torch.zeros(3), torch.eye(3, dtype=torch.float64))
    assert_gaussian(drawn["x"], MODEL.bias, MODEL.W @ MODEL.W.mT + MODEL.scale**2 * identity)
    # Latents and data are drawn jointly: x minus its mean given z is the noise.
    assert_gaussian(drawn["x"] - drawn["z"] @ MODEL.W.mT, MODEL.bias, MODEL.scale**2 * identity)


def test_a_seed_reproduces_draws_and_leaves_the_random_state_untouched(vi: avi.AmortizedVI) -> None:
    state = torch.get_rng_state()
    assert torch.equal(vi.predict(X, draws=2, seed=5)["x"], vi.predict(X, draws=2, seed=5)["x"])
    assert torch.equal(vi.sample_prior(3, seed=5)["x"], vi.sample_prior(3, seed=5)["x"])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(vi.predict(X, draws=2)["x"], vi.predict(X, draws=2)["x"])


@pytest.mark.parametrize("limit", [16, 300, 5000])
def test_predictions_belong_to_their_observations(
    vi: avi.AmortizedVI, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In chunks of any size: some draws of one observation, or all draws of several."""
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", limit)
    draws = 200
    drawn = vi.predict(X, draws=draws, seed=0)["x"]
    assert drawn.shape == (draws, 12, 5)
    exact = MODEL.posterior(X)
    scale = (MODEL.W @ exact.covariance_matrix @ MODEL.W.mT).diagonal(dim1=-2, dim2=-1).add(MODEL.scale**2).sqrt()
    error = (drawn.mean(0) - (exact.mean @ MODEL.W.mT + MODEL.bias)) / scale * math.sqrt(draws)
    assert error.abs().max() < 5
    assert vi.sample_prior(40, X, seed=0)["z"].shape == (40, 3)


def test_the_widest_layer_of_the_model_limits_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latents and data are narrow, but a layer between them is not."""
    rows: list[int] = []

    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 1000), nn.Linear(1000, 3)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            rows.append(z.shape[0])
            return self.second(self.first(z).relu())

    x = torch.randn(30, 3)
    vi = avi.AmortizedVI(avi.models.VAE(Decoder(), 2, "normal"), avi.encoders.MLP(3, []), "full").setup(x, seed=0)
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", 50_000)
    for work in (
        lambda: vi.predict(x, draws=20, seed=0),
        lambda: vi.predict(x, draws=80, seed=0),
        lambda: vi.sample_prior(200, x, seed=0),
        lambda: vi.evaluate(x, particles=20, seed=0),
        lambda: vi.to_arviz(x, draws=20, seed=0),
    ):
        rows.clear()
        work()
        assert 30 <= max(rows) <= 50


# -------------------------------------------------------------------------------------------------- other models


def covariate_model(t: torch.Tensor, y: torch.Tensor) -> None:
    with pyro.plate("data", t.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = pyro.deterministic("mean", z + 10 * t)
        pyro.sample("y", dist.Normal(mean, 0.1), obs=y)


@pytest.fixture(scope="module")
def with_covariate() -> tuple[avi.AmortizedVI, Any]:
    t = torch.arange(6.0)
    data = (t, 10 * t)
    return avi.AmortizedVI(covariate_model, avi.encoders.MLP(2, [4])).setup(data, seed=0), data


@pytest.mark.parametrize("limit", [2**22, 16])
def test_each_observation_keeps_its_covariates(
    with_covariate: Any, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    vi, data = with_covariate
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", limit)
    drawn = vi.predict(data, draws=50, seed=0)
    assert set(drawn) == {"mean", "y"}
    assert (drawn["y"] - drawn["mean"]).abs().max() < 1
    latent = vi.posterior(data)
    error = drawn["mean"].mean(0) - 10 * data[0] - latent.mean["z"]
    assert (error / latent.std["z"] * math.sqrt(50)).abs().max() < 5
    prior = vi.sample_prior(12, data, seed=0)
    torch.testing.assert_close(prior["mean"], prior["z"] + 10 * data[0].repeat(2))


def test_new_covariates(with_covariate: Any) -> None:
    vi, (t, y) = with_covariate
    drawn, latent = vi.predict((t + 100, y), draws=5, seed=0), vi.posterior((t + 100, y))
    assert ((drawn["y"] - 1000 - 10 * t - latent.mean["z"]).abs() < 10 * latent.std["z"] + 1).all()


def nested_model(y: torch.Tensor) -> None:
    with pyro.plate("units", y.shape[0], dim=-2):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("times", 3, dim=-1):
            pyro.sample("y", dist.Normal(100 * level, 0.01), obs=y)


def test_sites_in_nested_plates_have_observations_first() -> None:
    y = torch.randn(4, 3)
    vi = avi.AmortizedVI(nested_model, avi.encoders.MLP(3, [])).setup(y, seed=0)
    drawn = vi.predict(y, draws=7, seed=0)["y"]
    assert drawn.shape == (7, 4, 3)
    assert drawn.std(-1).max() < 0.1  # the three times of a unit share its level
    assert drawn.std(1).max() > 1


def masked_model(y: torch.Tensor, seen: torch.Tensor) -> None:
    with pyro.plate("data", y.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def test_missing_data_are_predicted() -> None:
    data = (torch.randn(5), torch.tensor([True, False, True, True, False]))
    vi = avi.AmortizedVI(masked_model, avi.encoders.MLP(2, [])).setup(data, seed=0)
    drawn = vi.predict(data, draws=100, seed=0)["y"]
    assert drawn.shape == (100, 5)
    assert (drawn.std(0) > 0.5).all()  # at least one, within five standard errors


def test_integer_data_stay_integers() -> None:
    x = torch.randint(0, 4, (9, 2), generator=torch.Generator().manual_seed(0))
    model = avi.models.VAE(nn.Linear(2, 8), 2, "categorical")
    drawn = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").setup(x, seed=0).predict(x, draws=3, seed=0)["x"]
    assert drawn.dtype == torch.int64
    assert 0 <= drawn.min() <= drawn.max() < 4


def test_dropout_is_inactive_and_the_mode_is_restored() -> None:
    decoder = nn.Sequential(nn.Linear(2, 5), nn.Dropout(0.5))
    model = avi.models.VAE(decoder, 2, avi.models.Normal(0.001))
    vi = avi.AmortizedVI(model, avi.encoders.MLP(5, [])).setup(X.float(), seed=0)
    model.train()
    drawn = vi.sample_prior(50, seed=0)
    with torch.no_grad():
        expected = decoder[0](drawn["z"])
    assert (drawn["x"] - expected).abs().max() < 0.01
    assert decoder[1].training


def test_options_are_checked(vi: avi.AmortizedVI) -> None:
    with pytest.raises(OptionError, match="draws must be a positive integer"):
        vi.predict(X, draws=0)
    with pytest.raises(OptionError, match="n must be a positive integer"):
        vi.sample_prior(-1)
    with pytest.raises(NotFittedError, match="call fit or setup first"):
        avi.AmortizedVI(MODEL, avi.encoders.MLP(5, [])).predict(X)
