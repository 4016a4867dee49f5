"""Deterministic sites of posteriors, against moments and quantiles that are known."""

import math
from contextlib import nullcontext
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi
from amortvi._util import memory
from amortvi.errors import DataError
from amortvi.posterior import Posterior
from amortvi.posterior.moments import DRAWS
from tests.arviz_versions import groups
from tests.exact import with_parameters

DOUBLE = torch.float64
LOC, LOG_SCALE = torch.tensor([0.5, -0.2], dtype=DOUBLE), torch.tensor([-1.2, -0.9], dtype=DOUBLE)
X = torch.zeros(6, 3, dtype=DOUBLE)


def model(x: Tensor) -> None:
    """Latents with deterministic functions: one for each observation, in a nested plate, boolean, and outside the plate."""
    zeros = torch.zeros(2, dtype=x.dtype)
    pyro.deterministic("outside", zeros)
    with pyro.plate("data", x.shape[0], dim=-2):
        z = pyro.sample("z", dist.Normal(zeros, 1.0).to_event(1))
        rate = pyro.deterministic("rate", z.exp(), event_dim=1)
        pyro.deterministic("positive", z[..., 0] > 0.5, event_dim=0)
        with pyro.plate("features", 3, dim=-1):
            mean = pyro.deterministic("mean", rate.sum(-1) * torch.arange(1.0, 4.0, dtype=x.dtype), event_dim=0)
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


@pytest.fixture(scope="module")
def vi() -> avi.AmortizedVI:
    return with_parameters(model, torch.cat([LOC, LOG_SCALE]), X, avi.families.Diagonal)


@pytest.fixture(scope="module")
def posterior(vi: avi.AmortizedVI) -> Posterior:
    return vi.posterior(X)


SCALE = LOG_SCALE.exp()
RATE = (LOC + SCALE.square() / 2).exp()
"""The mean of a log-normal variable."""
SPREAD = RATE * (SCALE.square().exp() - 1).sqrt()


def assert_close_to_exact(mean: Tensor, std: Tensor, draws: int) -> None:
    """The mean and standard deviation of ``rate`` are the exact ones within Monte Carlo error."""
    assert ((mean - RATE).abs() < 5 * SPREAD / math.sqrt(draws)).all()
    # The excess kurtosis of a log-normal variable.
    w = SCALE.square().exp()
    kurtosis = w**4 + 2 * w**3 + 3 * w**2 - 3
    assert ((std / SPREAD - 1).abs() < 5 * ((kurtosis - 1) / 4 / draws).sqrt()).all()


@pytest.mark.parametrize("limit", [100, 5000, 2**22])
def test_moments_and_quantiles(posterior: Posterior, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", limit)
    chosen = posterior.select([1, 4])
    mean, std = chosen.mean, chosen.std
    assert list(mean) == list(std) == ["z", "rate", "positive", "mean"]
    assert_close_to_exact(mean["rate"], std["rate"], DRAWS)
    torch.testing.assert_close(mean["z"], LOC.expand(2, 2))
    assert mean["mean"].shape == (2, 3)
    torch.testing.assert_close(mean["mean"], mean["rate"].sum(-1, keepdim=True) * torch.arange(1.0, 4.0).double())
    assert ((mean["positive"] - 0.5).abs() < 5 * math.sqrt(0.25 / DRAWS)).all()
    levels = [0.2, 0.5, 0.9]
    quantiles = chosen.quantiles(levels)
    assert quantiles["mean"].shape == (3, 2, 3)
    assert torch.equal(chosen.median["rate"], quantiles["rate"][1])
    reached = torch.distributions.Normal(LOC, SCALE).cdf(quantiles["rate"].log())
    for level, found in zip(levels, reached, strict=True):
        assert ((found - level).abs() < 5 * math.sqrt(level * (1 - level) / DRAWS)).all()
    state = torch.get_rng_state()
    assert torch.equal(chosen.mean["rate"], mean["rate"])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("limit", [1, 2**22])
@pytest.mark.parametrize("resample", [False, True])
def test_draws(posterior: Posterior, limit: int, resample: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The deterministic sites belong to the latents of the same draw."""
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", limit)
    chosen = posterior.select([1, 4])
    with pytest.warns(match="unreliable") if resample else nullcontext():
        draws = chosen.sample(7, resample=resample, proposals=15 if resample else None, seed=0)
    assert list(draws) == ["z", "rate", "positive", "mean"]
    torch.testing.assert_close(draws["rate"], draws["z"].exp())
    assert torch.equal(draws["positive"], draws["z"][..., 0] > 0.5)
    expected = draws["rate"].sum(-1)[..., None] * torch.arange(1.0, 4.0).double()
    torch.testing.assert_close(draws["mean"], expected)
    latents = {"z": draws["z"]}
    assert torch.equal(chosen.log_prob(draws), chosen.log_prob(latents))
    with pytest.raises(DataError, match="latent sites"):
        chosen.log_prob({**draws, "typo": draws["z"]})


def test_tables(posterior: Posterior) -> None:
    frame = posterior.to_frame(quantiles=[0.5])
    labels = ["z[0]", "z[1]", "rate[0]", "rate[1]", "positive", "mean[0]", "mean[1]", "mean[2]"]
    assert list(frame.loc[0].index) == labels
    for site, columns in ((posterior.mean, "mean"), (posterior.std, "std"), (posterior.median, "50%")):
        flat = torch.cat([value.reshape(6, -1) for value in site.values()], dim=1)
        np.testing.assert_allclose(frame[columns].to_numpy().reshape(6, -1), flat)


def test_the_sites_are_those_of_an_export(vi: avi.AmortizedVI, posterior: Posterior) -> None:
    exported = groups(vi.to_arviz(X, draws=3, prior_draws=0, seed=0))["posterior"]
    drawn = posterior.sample(3, seed=0)
    assert {name: value.shape[1:] for name, value in exported.items()} == {
        name: tuple(value.shape) for name, value in drawn.items()
    }


def test_covariates_and_sites_without_a_declared_layout() -> None:
    def covariate(t: Tensor, y: Tensor) -> None:
        with pyro.plate("data", t.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 1.0))
            pyro.sample("y", dist.Normal(pyro.deterministic("mean", z + 10 * t), 1.0), obs=y)

    t = torch.arange(5, dtype=DOUBLE)
    found = with_parameters(
        covariate, torch.tensor([0.3, -1.0], dtype=DOUBLE), (t, t), avi.families.Diagonal
    ).posterior((t, t))
    error = found.mean["mean"] - 10 * t - 0.3
    assert (error.abs() < 5 * math.exp(-1) / math.sqrt(DRAWS)).all()
    assert error.abs().max() > 0
    draws = found.select([4, 2]).sample(3, seed=0)
    torch.testing.assert_close(draws["mean"], draws["z"] + 10 * t[[4, 2]])


def test_models_without_deterministic_sites_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[int] = []

    def plain(x: Any) -> None:
        runs.append(x.shape[0])
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    found = with_parameters(plain, torch.zeros(2), torch.zeros(50), avi.families.Diagonal).posterior(torch.zeros(50))
    runs.clear()
    assert list(found.mean) == list(found.std) == list(found.sample(3)) == ["z"]
    assert runs == [1]
