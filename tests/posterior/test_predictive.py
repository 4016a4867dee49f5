"""Posterior predictive and prior draws, against the exact predictive and the model's own moments."""

import math

import pyro
import pytest
import torch
from pyro import distributions as dist

import amortvi as avi
from amortvi import _chunks
from amortvi.errors import NotFittedError, OptionError
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian()
X = MODEL.simulate(12, seed=1)


@pytest.fixture(scope="module")
def vi():
    return solved(MODEL)


def _assert_gaussian(draws, mean, covariance):
    """``draws``, the first dimension, have this mean and covariance within Monte Carlo error."""
    count = draws.shape[0]
    scale = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert ((draws.mean(0) - mean) / scale * math.sqrt(count)).abs().max() < 5
    centred = (draws - mean) / scale
    found = torch.einsum("s...i,s...j->...ij", centred, centred) / count
    assert (found - covariance / scale[..., :, None] / scale[..., None, :]).abs().max() < 5 * math.sqrt(2 / count)


def test_predictions_have_the_exact_predictive_moments(vi):
    """x' | x is Gaussian with mean W m + b and covariance W S W' + s^2 I, for the posterior N(m, S)."""
    drawn = vi.predict(X, draws=20_000, seed=0)
    assert list(drawn) == ["x"]
    exact = MODEL.posterior(X)
    covariance = MODEL.W @ exact.covariance_matrix @ MODEL.W.mT + MODEL.scale**2 * torch.eye(5, dtype=torch.float64)
    _assert_gaussian(drawn["x"], exact.mean @ MODEL.W.mT + MODEL.bias, covariance)


def test_prior_draws_have_the_moments_of_the_model(vi):
    drawn = vi.sample_prior(50_000, seed=0)
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {"z": (50_000, 3), "x": (50_000, 5)}
    identity = torch.eye(5, dtype=torch.float64)
    _assert_gaussian(drawn["z"], torch.zeros(3), torch.eye(3, dtype=torch.float64))
    _assert_gaussian(drawn["x"], MODEL.bias, MODEL.W @ MODEL.W.mT + MODEL.scale**2 * identity)
    # Drawn together: x less its mean given z is the noise alone.
    _assert_gaussian(drawn["x"] - drawn["z"] @ MODEL.W.mT, MODEL.bias, MODEL.scale**2 * identity)


def test_a_seed_reproduces_draws_and_leaves_the_random_state(vi):
    state = torch.get_rng_state()
    assert torch.equal(vi.predict(X, draws=2, seed=5)["x"], vi.predict(X, draws=2, seed=5)["x"])
    assert torch.equal(vi.sample_prior(3, seed=5)["x"], vi.sample_prior(3, seed=5)["x"])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(vi.predict(X, draws=2)["x"], vi.predict(X, draws=2)["x"])


@pytest.mark.parametrize("numbers", [16, 300, 5000])
def test_draws_in_pieces_belong_to_their_observations(vi, numbers, monkeypatch):
    """However few rows the model meets at once: one observation and some of its draws, or several with all."""
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", numbers)
    drawn = vi.predict(X, draws=40, seed=0)["x"]
    assert drawn.shape == (40, 12, 5)
    mean = MODEL.posterior(X).mean @ MODEL.W.mT + MODEL.bias
    assert ((drawn.mean(0) - mean) * math.sqrt(40)).abs().max() < 8
    prior = vi.sample_prior(40, X, seed=0)
    assert prior["z"].shape == (40, 3)


def test_the_model_meets_no_more_rows_than_its_widest_layer_allows(monkeypatch):
    """The latents and the data are narrow; what is made between them is not."""
    rows = []

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(2, 1000), torch.nn.Linear(1000, 3)

        def forward(self, z):
            rows.append(z.shape[0])
            return self.second(self.first(z).relu())

    vi = avi.AmortizedVI(avi.models.VAE(Decoder(), 2, "normal"), avi.encoders.MLP(3, []), "full")
    x = torch.randn(30, 3)
    vi.fit(x, epochs=1, progress=False, seed=0)
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", 50_000)
    for work in (
        lambda: vi.predict(x, draws=20, seed=0),
        lambda: vi.predict(x, draws=80, seed=0),
        lambda: vi.sample_prior(200, x, seed=0),
        lambda: vi.evaluate(x, particles=20, seed=0),
        lambda: vi.to_arviz(x, draws=20, seed=0),
    ):
        rows.clear()
        work()
        assert max(rows) <= 50
        assert max(rows) >= 30


# ------------------------------------------------------------------------------ other models


def covariate_model(t, y):
    with pyro.plate("data", t.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = pyro.deterministic("mean", z + 10 * t)
        pyro.sample("y", dist.Normal(mean, 0.1), obs=y)


@pytest.fixture(scope="module")
def with_covariate():
    t = torch.arange(6.0)
    data = (t, 10 * t)
    return avi.AmortizedVI(covariate_model, avi.encoders.MLP(2, [4])).fit(data, epochs=1, progress=False, seed=0), data


@pytest.mark.parametrize("numbers", [2**22, 16])
def test_each_observation_keeps_its_covariates(with_covariate, numbers, monkeypatch):
    vi, data = with_covariate
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", numbers)
    drawn = vi.predict(data, draws=50, seed=0)
    assert set(drawn) == {"mean", "y"}
    assert (drawn["y"] - drawn["mean"]).abs().max() < 1
    latent = vi.posterior(data)
    error = drawn["mean"].mean(0) - 10 * data[0] - latent.mean["z"]
    assert (error / latent.std["z"] * math.sqrt(50)).abs().max() < 5
    prior = vi.sample_prior(12, data, seed=0)
    torch.testing.assert_close(prior["mean"], prior["z"] + 10 * data[0].repeat(2))


def test_new_covariates(with_covariate):
    vi, (t, y) = with_covariate
    drawn = vi.predict((t + 100, y), draws=5, seed=0)
    assert (drawn["y"] > 900).all()


def nested_model(y):
    with pyro.plate("units", y.shape[0], dim=-2):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("times", 3, dim=-1):
            pyro.sample("y", dist.Normal(100 * level, 0.1), obs=y)


def test_sites_in_nested_plates_come_observations_first():
    y = torch.randn(4, 3)
    vi = avi.AmortizedVI(nested_model, avi.encoders.MLP(3, [])).fit(y, epochs=1, progress=False, seed=0)
    drawn = vi.predict(y, draws=7, seed=0)["y"]
    assert drawn.shape == (7, 4, 3)
    assert drawn.std(-1).max() < 1  # the three times of a unit share its level
    assert drawn.std(1).max() > 1


def masked_model(y, seen):
    with pyro.plate("data", y.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def test_missing_data_are_predicted_too():
    data = (torch.randn(5), torch.tensor([True, False, True, True, False]))
    vi = avi.AmortizedVI(masked_model, avi.encoders.MLP(2, [])).fit(data, epochs=1, progress=False, seed=0)
    drawn = vi.predict(data, draws=100, seed=0)["y"]
    assert drawn.shape == (100, 5)
    assert (drawn.std(0) > 0.5).all()


def test_integer_data_stay_integers():
    x = torch.randint(0, 4, (9, 2), generator=torch.Generator().manual_seed(0))
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Unflatten(1, (2, 4)))
    model = avi.models.VAE(decoder, 2, "categorical")
    vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").fit(x, epochs=1, progress=False, seed=0)
    drawn = vi.predict(x, draws=3, seed=0)["x"]
    assert drawn.dtype == torch.int64
    assert 0 <= drawn.min() <= drawn.max() < 4


def test_training_mode_and_dropout_are_left_alone(vi):
    decoder = torch.nn.Sequential(torch.nn.Linear(2, 5), torch.nn.Dropout(0.5))
    model = avi.models.VAE(decoder, 2, avi.models.Normal(0.001))
    fitted = avi.AmortizedVI(model, avi.encoders.MLP(5, [])).fit(X.float(), epochs=1, progress=False, seed=0)
    model.train()
    drawn = fitted.sample_prior(50, seed=0)
    with torch.no_grad():
        expected = torch.nn.functional.linear(drawn["z"], decoder[0].weight, decoder[0].bias)
    assert (drawn["x"] - expected).abs().max() < 0.01
    assert decoder[1].training


def test_options_are_checked(vi):
    with pytest.raises(OptionError, match="draws must be a positive integer"):
        vi.predict(X, draws=0)
    with pytest.raises(OptionError, match="n must be a positive integer"):
        vi.sample_prior(-1)
    with pytest.raises(NotFittedError, match="call fit first"):
        avi.AmortizedVI(MODEL, avi.encoders.MLP(5, [])).predict(X)
