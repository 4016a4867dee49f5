"""Bounds of the evidence, against the exact evidence of a linear-Gaussian model."""

import math

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch.utils.data import DataLoader

import amortvi as avi
from amortvi import _chunks
from amortvi.errors import OptionError
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian()
X = MODEL.simulate(200, seed=1)
EVIDENCE = MODEL.log_evidence(X).numpy()


@pytest.fixture(scope="module")
def exact():
    return solved(MODEL)


@pytest.fixture(scope="module")
def wide():
    """A posterior of three times the exact covariance: a gap known exactly, and log weights with finite variance."""
    return solved(MODEL, widen=math.sqrt(3))


def test_an_exact_posterior_reaches_the_evidence_with_every_draw(exact):
    table = exact.evaluate(X, particles=3, seed=0)
    assert list(table.columns) == ["elbo", "elbo_se", "reconstruction", "kl", "iwae"]
    np.testing.assert_allclose(table["elbo"], EVIDENCE, atol=1e-6)
    np.testing.assert_allclose(table["iwae"], EVIDENCE, atol=1e-6)
    assert (table["elbo_se"] < 1e-6).all()


def test_the_best_diagonal_posterior_loses_the_known_gap():
    table = solved(MODEL, avi.families.Diagonal).evaluate(X, particles=400, seed=0)
    error = table["elbo"].mean() - (EVIDENCE.mean() - MODEL.diagonal_gap())
    assert abs(error) < 4 * np.sqrt((table["elbo_se"] ** 2).sum()) / len(X)


def test_the_bounds_are_ordered(wide):
    few, many = (wide.evaluate(X, particles=k, seed=0) for k in (10, 1000))
    assert (few["elbo"] <= few["iwae"] + 1e-12).all()
    assert few["elbo"].mean() < few["iwae"].mean() < many["iwae"].mean() < EVIDENCE.mean() + 0.01
    assert EVIDENCE.mean() - many["iwae"].mean() < 0.01
    # KL(N(m, 3 S) || N(m, S)) in three dimensions.
    gap = 0.5 * 3 * (3 - 1 - math.log(3))
    error = many["elbo"].mean() - (EVIDENCE.mean() - gap)
    assert abs(error) < 4 * np.sqrt((many["elbo_se"] ** 2).sum()) / len(X)


def test_the_standard_error_covers(wide):
    """Over seeds and observations, 95 % of the intervals hold the true ELBO."""
    truth = EVIDENCE - 0.5 * 3 * (3 - 1 - math.log(3))
    inside = []
    for seed in range(20):
        table = wide.evaluate(X, particles=50, seed=seed)
        inside.append(np.abs(table["elbo"] - truth) < 1.96 * table["elbo_se"])
    # 4,000 intervals; with 50 skewed draws each, a little under the nominal level.
    assert 0.92 < np.mean(inside) < 0.96


def test_the_parts_add_up_and_an_exact_kl_is_exact(wide):
    table = wide.evaluate(X, particles=20, seed=0)
    np.testing.assert_allclose(table["reconstruction"] - table["kl"], table["elbo"])
    q = wide.guide.get_posterior(X)
    np.testing.assert_allclose(table["kl"], q.kl_standard_normal().detach())
    mean = q.mean @ MODEL.W.mT + MODEL.bias
    trace = (MODEL.W @ q.covariance_matrix @ MODEL.W.mT).diagonal(dim1=-2, dim2=-1).sum(-1)
    constant = 2.5 * math.log(2 * math.pi) + 5 * MODEL.scale.log()
    expected = -(((X - mean) ** 2).sum(-1) + trace) / (2 * MODEL.scale**2) - constant
    error = table["reconstruction"].mean() - expected.mean().item()
    assert abs(error) < 4 * np.sqrt((table["elbo_se"] ** 2).sum()) / len(X)


def test_a_prior_that_is_not_standard_has_an_estimated_kl():
    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.LogNormal(0.5, 0.3))
            pyro.sample("x", dist.Poisson(z), obs=x)

    x = torch.poisson(torch.full((200,), 2.0), generator=torch.Generator().manual_seed(0))
    vi = avi.AmortizedVI(model, avi.encoders.MLP(1, [8])).fit(x, epochs=30, lr=0.01, progress=False, seed=0)
    grid = torch.linspace(1e-3, 12, 20_001).unsqueeze(-1)
    joint = dist.LogNormal(0.5, 0.3).log_prob(grid) + dist.Poisson(grid).log_prob(x)
    evidence = (joint.exp() * (grid[1] - grid[0])).sum(0).log().numpy()
    table = vi.evaluate(x, particles=2000, seed=0)
    np.testing.assert_allclose(table["iwae"], evidence, atol=0.05)
    assert (table["elbo"] < evidence + 4 * table["elbo_se"] + 1e-3).all()
    np.testing.assert_allclose(table["reconstruction"] - table["kl"], table["elbo"])


def test_one_particle_has_no_standard_error(wide):
    table = wide.evaluate(X, particles=1, seed=0)
    assert table["elbo_se"].isna().all()
    np.testing.assert_allclose(table["iwae"], table["elbo"])


def test_labels_seeds_and_random_state(wide):
    frame = pd.DataFrame(X.numpy(), index=[f"row {i}" for i in range(200)])
    state = torch.get_rng_state()
    table = wide.evaluate(frame, particles=5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(table.index) == list(frame.index)
    np.testing.assert_array_equal(table, wide.evaluate(X, particles=5, seed=3))


@pytest.mark.parametrize("numbers", [16, 500])
def test_pieces_of_any_size_give_the_same_bounds(exact, wide, numbers, monkeypatch):
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", numbers)
    np.testing.assert_allclose(exact.evaluate(X, particles=4, seed=0)["elbo"], EVIDENCE, atol=1e-6)
    table = wide.evaluate(X, particles=10, seed=0)
    np.testing.assert_allclose(table["kl"], wide.guide.get_posterior(X).kl_standard_normal().detach())


@pytest.mark.parametrize("options", [{"batch_size": 200}, {"batch_size": 32}, {"batch_size": 32, "drop_last": True}])
def test_observations_that_a_loader_reads(exact, options, monkeypatch):
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", 5000)
    table = exact.evaluate(DataLoader(torch.utils.data.TensorDataset(X), **options), particles=4, seed=0)
    np.testing.assert_allclose(table["elbo"], EVIDENCE[: len(table)], atol=1e-6)
    assert len(table) == (192 if "drop_last" in options else 200)


def test_options_are_checked(exact):
    with pytest.raises(OptionError, match="particles must be a positive integer; got 0"):
        exact.evaluate(X, particles=0)
