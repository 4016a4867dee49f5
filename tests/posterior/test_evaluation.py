"""Bounds of the evidence, predictive and prior draws, against the exact answers of linear-Gaussian and other models."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

import amortvi as avi
from amortvi._util import memory
from amortvi.families import kl_to_standard_normal
from tests.exact import hand_set
from tests.posterior.problem import EVIDENCE, EXACT, MODEL, WIDEN, LogNormal, X, assert_gaussian

WIDE_GAP = 0.5 * 3 * (WIDEN**2 - 1 - math.log(WIDEN**2))
"""The KL of the wide posterior to the exact one, in three dimensions, in nats."""


def error_of_mean(table: pd.DataFrame) -> float:
    """Return the standard error of the mean ELBO over observations."""
    return float(np.sqrt((table["elbo_se"] ** 2).sum()) / len(table))


def test_every_draw_from_an_exact_posterior_gives_the_evidence(exact: avi.AmortizedVI) -> None:
    frame = pd.DataFrame(X.numpy(), index=[f"row {i}" for i in range(200)])
    table = exact.evaluate(frame, particles=3, seed=0)
    assert list(table.columns) == ["elbo", "elbo_se", "reconstruction", "kl", "iwae"]
    assert list(table.index) == list(frame.index)
    np.testing.assert_allclose(table["elbo"], EVIDENCE, atol=1e-6)
    np.testing.assert_allclose(table["iwae"], EVIDENCE, atol=1e-6)
    assert (table["elbo_se"] < 1e-6).all()


def test_bounds_are_ordered(wide: avi.AmortizedVI) -> None:
    few, many = (wide.evaluate(X, particles=k, seed=0) for k in (10, 1000))
    one = wide.evaluate(X, particles=1, seed=0)
    assert one["elbo_se"].isna().all()
    np.testing.assert_allclose(one["iwae"], one["elbo"])
    assert (few["elbo"] <= few["iwae"] + 1e-12).all()
    # The means of these bounds differ by tenths of a nat, a multiple of their Monte Carlo errors.
    assert few["elbo"].mean() < few["iwae"].mean() < many["iwae"].mean()
    assert abs(EVIDENCE.mean() - many["iwae"].mean()) < 0.02
    assert abs(many["elbo"].mean() - (EVIDENCE.mean() - WIDE_GAP)) < 5 * error_of_mean(many)


def test_standard_errors_cover_the_true_elbo(wide: avi.AmortizedVI) -> None:
    """Over seeds and observations, 95 % intervals contain the true ELBO."""
    inside = []
    for seed in range(10):
        table = wide.evaluate(X, particles=50, seed=seed)
        inside.append(np.abs(table["elbo"] - (EVIDENCE - WIDE_GAP)) < 1.96 * table["elbo_se"])
    # 2,000 intervals have a standard error of 0.005; with 50 skewed draws, coverage is about 0.01 below its nominal level.
    assert 0.915 < np.mean(inside) < 0.975


@pytest.mark.parametrize("limit", [200, 2**22])
def test_bounds_are_the_sum_of_their_parts(wide: avi.AmortizedVI, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", limit)
    table = wide.evaluate(X, particles=20, seed=0)
    np.testing.assert_allclose(table["reconstruction"] - table["kl"], table["elbo"])
    q = wide.guide.get_posterior(X)
    np.testing.assert_allclose(table["kl"], kl_to_standard_normal(q).detach())
    trace = (MODEL.W @ q.covariance_matrix @ MODEL.W.mT).diagonal(dim1=-2, dim2=-1).sum(-1)
    squares = (X - q.mean @ MODEL.W.mT - MODEL.bias).square().sum(-1) + trace
    expected = -squares / (2 * MODEL.scale**2) - 2.5 * math.log(2 * math.pi) - 5 * MODEL.scale.log()
    assert abs(table["reconstruction"].mean() - expected.mean().item()) < 5 * error_of_mean(table)


def test_other_priors_have_an_estimated_kl() -> None:
    """A log-normal prior of a Poisson rate, whose evidence follows from quadrature."""
    prior = dist.LogNormal(torch.tensor(0.5, dtype=torch.float64), 0.3)

    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", prior)
            pyro.sample("x", dist.Poisson(z), obs=x)

    x = torch.arange(5.0, dtype=torch.float64)
    grid = torch.linspace(1e-3, 12, 20_001, dtype=torch.float64).unsqueeze(-1)
    joint = prior.log_prob(grid) + dist.Poisson(grid).log_prob(x)
    evidence = torch.trapezoid(joint.exp(), grid, dim=0).log().numpy()
    # Wider than the prior, so that the weights have a finite variance.
    wide = hand_set(model, LogNormal(0.4, 12, 7).double(), avi.families.Diagonal, x)
    table = wide.evaluate(x, particles=5000, seed=0)
    np.testing.assert_allclose(table["reconstruction"] - table["kl"], table["elbo"])
    assert (table["elbo"] < evidence + 5 * table["elbo_se"]).all()
    np.testing.assert_allclose(table["iwae"], evidence, atol=0.05)


@pytest.mark.parametrize(("limit", "draws"), [(16, 200), (300, 200), (5000, 200), (2**22, 20_000)])
def test_predictions_have_the_exact_moments(
    exact: avi.AmortizedVI, limit: int, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new x is Gaussian, with mean W m + b and covariance W S W' + s^2 I, in chunks of any size."""
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", limit)
    drawn = exact.predict(X[:12], draws=draws, seed=0)
    noise = MODEL.scale**2 * torch.eye(5, dtype=torch.float64)
    covariance = MODEL.W @ EXACT.covariance_matrix[:12] @ MODEL.W.mT + noise
    assert_gaussian(drawn["x"], EXACT.mean[:12] @ MODEL.W.mT + MODEL.bias, covariance)


def test_prior_draws_have_the_moments_of_the_model(exact: avi.AmortizedVI) -> None:
    drawn = exact.sample_prior(50_000, seed=0)
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {"z": (50_000, 3), "x": (50_000, 5)}
    noise = MODEL.scale**2 * torch.eye(5, dtype=torch.float64)
    assert_gaussian(drawn["z"], torch.zeros(3), torch.eye(3, dtype=torch.float64))
    assert_gaussian(drawn["x"], MODEL.bias, MODEL.W @ MODEL.W.mT + noise)
    # Latents and data are drawn jointly: x minus its mean given z is the noise.
    assert_gaussian(drawn["x"] - drawn["z"] @ MODEL.W.mT, MODEL.bias, noise)


def test_the_widest_layer_limits_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Observations and latents are narrow, but a layer between them is not, be it in the encoder or in the decoder."""
    rows: dict[str, list[int]] = {}

    class Wide(nn.Module):
        def __init__(self, name: str, inputs: int, outputs: int) -> None:
            super().__init__()
            self.name, self.first, self.second = name, nn.Linear(inputs, 1000), nn.Linear(1000, outputs)

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            rows.setdefault(self.name, []).append(value.shape[0])
            return self.second(self.first(value).relu())

    x = torch.randn(60, 3)
    model = avi.models.VAE(Wide("decoder", 2, 3), 2, "normal")
    vi = avi.AmortizedVI(model, Wide("encoder", 3, 4), "full").setup(x, seed=0)
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", 50_000)
    for name, work in (
        ("encoder", lambda: vi.posterior(x).mean),
        ("decoder", lambda: vi.predict(x, draws=20, seed=0)),
        ("decoder", lambda: vi.predict(x, draws=80, seed=0)),
        ("decoder", lambda: vi.sample_prior(200, x, seed=0)),
        ("decoder", lambda: vi.evaluate(x, particles=20, seed=0)),
        ("decoder", lambda: vi.to_arviz(x, draws=20, prior_draws=0, seed=0)),
    ):
        rows.clear()
        work()
        assert 30 <= max(rows[name]) <= 50


def covariate_model(t: torch.Tensor, y: torch.Tensor) -> None:
    with pyro.plate("data", t.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        mean = pyro.deterministic("mean", z + 10 * t)
        pyro.sample("y", dist.Normal(mean, 0.1), obs=y)


@pytest.mark.parametrize("limit", [2**22, 16])
def test_each_observation_keeps_its_covariates(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    t = torch.arange(6.0)
    vi = avi.AmortizedVI(covariate_model, avi.encoders.MLP(2, [4])).setup((t, 10 * t), seed=0)
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", limit)
    for data in ((t, 10 * t), (t + 100, 10 * t)):
        drawn, latent = vi.predict(data, draws=50, seed=0), vi.posterior(data)
        assert set(drawn) == {"mean", "y"}
        assert (drawn["y"] - drawn["mean"]).abs().max() < 1
        error = drawn["mean"].mean(0) - 10 * data[0] - latent.mean["z"]
        assert (error / latent.std["z"] * math.sqrt(50)).abs().max() < 5
    prior = vi.sample_prior(12, (t, 10 * t), seed=0)
    torch.testing.assert_close(prior["mean"], prior["z"] + 10 * t.repeat(2))


def masked_model(y: torch.Tensor, seen: torch.Tensor) -> None:
    with pyro.plate("data", y.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.poutine.mask(mask=seen):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def test_missing_and_integer_data_are_predicted() -> None:
    def predict(model: Any, data: Any) -> torch.Tensor:
        return avi.AmortizedVI(model, avi.encoders.MLP(2, [])).setup(data, seed=0).predict(data, 100, seed=0)

    seen = torch.tensor([True, False, True, True, False])
    assert (
        predict(masked_model, (torch.randn(5), seen))["y"].std(0) > 0.5
    ).all()  # at least one, within 5 standard errors
    x = torch.randint(0, 4, (9, 2), generator=torch.Generator().manual_seed(0))
    drawn = predict(avi.models.VAE(nn.Linear(2, 8), 2, "categorical"), x)["x"]
    assert (drawn.shape, drawn.dtype) == ((100, 9, 2), torch.int64)
    assert 0 <= drawn.min() <= drawn.max() < 4
