"""Bounds of the log evidence, against the exact evidence of a linear-Gaussian model."""

import math

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import amortvi as avi
from amortvi._util import chunks
from amortvi.errors import OptionError
from amortvi.families import kl_to_standard_normal
from tests.exact import hand_set, linear_gaussian, solved

MODEL = linear_gaussian()
X = MODEL.simulate(200, seed=1)
EVIDENCE = MODEL.log_evidence(X).numpy()
WIDE_GAP = 0.5 * 3 * (3 - 1 - math.log(3))
"""KL(N(m, 3 S) || N(m, S)) in three dimensions, in nats."""


@pytest.fixture(scope="module")
def exact() -> avi.AmortizedVI:
    return solved(MODEL)


@pytest.fixture(scope="module")
def wide() -> avi.AmortizedVI:
    """A posterior with three times the exact covariance: its gap is known, and its weights have finite variance."""
    return solved(MODEL, widen=math.sqrt(3))


def error_of_mean(table: pd.DataFrame) -> float:
    """Return the standard error of the mean ELBO over observations."""
    return float(np.sqrt((table["elbo_se"] ** 2).sum()) / len(table))


def test_an_exact_posterior_reaches_the_evidence_with_every_draw(exact: avi.AmortizedVI) -> None:
    table = exact.evaluate(X, particles=3, seed=0)
    assert list(table.columns) == ["elbo", "elbo_se", "reconstruction", "kl", "iwae"]
    np.testing.assert_allclose(table["elbo"], EVIDENCE, atol=1e-6)
    np.testing.assert_allclose(table["iwae"], EVIDENCE, atol=1e-6)
    assert (table["elbo_se"] < 1e-6).all()


def test_the_best_diagonal_posterior_has_the_known_gap() -> None:
    table = solved(MODEL, avi.families.Diagonal).evaluate(X, particles=400, seed=0)
    error = table["elbo"].mean() - (EVIDENCE.mean() - MODEL.diagonal_gap())
    assert abs(error) < 5 * error_of_mean(table)


def test_bounds_are_ordered(wide: avi.AmortizedVI) -> None:
    few, many = (wide.evaluate(X, particles=k, seed=0) for k in (10, 1000))
    assert (few["elbo"] <= few["iwae"] + 1e-12).all()
    # The means of these bounds differ by tenths of a nat, a multiple of their Monte Carlo errors.
    assert few["elbo"].mean() < few["iwae"].mean() < many["iwae"].mean()
    assert abs(EVIDENCE.mean() - many["iwae"].mean()) < 0.02
    assert abs(many["elbo"].mean() - (EVIDENCE.mean() - WIDE_GAP)) < 5 * error_of_mean(many)


def test_standard_errors_cover_the_true_elbo(wide: avi.AmortizedVI) -> None:
    """Over seeds and observations, 95 % intervals contain the true ELBO."""
    inside = []
    for seed in range(20):
        table = wide.evaluate(X, particles=50, seed=seed)
        inside.append(np.abs(table["elbo"] - (EVIDENCE - WIDE_GAP)) < 1.96 * table["elbo_se"])
    # 4,000 intervals have a standard error of 0.0035; with 50 skewed draws, coverage is about 0.01 below its nominal level.
    assert 0.92 < np.mean(inside) < 0.965


def test_bounds_are_the_sum_of_their_parts(wide: avi.AmortizedVI) -> None:
    table = wide.evaluate(X, particles=20, seed=0)
    np.testing.assert_allclose(table["reconstruction"] - table["kl"], table["elbo"])
    q = wide.guide.get_posterior(X)
    np.testing.assert_allclose(table["kl"], kl_to_standard_normal(q).detach())
    mean = q.mean @ MODEL.W.mT + MODEL.bias
    trace = (MODEL.W @ q.covariance_matrix @ MODEL.W.mT).diagonal(dim1=-2, dim2=-1).sum(-1)
    constant = 2.5 * math.log(2 * math.pi) + 5 * MODEL.scale.log()
    expected = -(((X - mean) ** 2).sum(-1) + trace) / (2 * MODEL.scale**2) - constant
    error = table["reconstruction"].mean() - expected.mean().item()
    assert abs(error) < 5 * error_of_mean(table)


class LogNormal(nn.Module):
    """The parameters of a log-normal posterior of a Poisson rate, close to the exact one."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-1.5, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([((12 + x) / 7).log(), self.log_scale.expand_as(x)], dim=-1)


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
    table = hand_set(model, LogNormal(), avi.families.Diagonal, x).evaluate(x, particles=5000, seed=0)
    np.testing.assert_allclose(table["reconstruction"] - table["kl"], table["elbo"])
    assert (table["elbo"] < evidence + 5 * table["elbo_se"]).all()
    np.testing.assert_allclose(table["iwae"], evidence, atol=0.1)


def test_one_particle_has_no_standard_error(wide: avi.AmortizedVI) -> None:
    table = wide.evaluate(X, particles=1, seed=0)
    assert table["elbo_se"].isna().all()
    np.testing.assert_allclose(table["iwae"], table["elbo"])


def test_labels_and_random_state(wide: avi.AmortizedVI) -> None:
    frame = pd.DataFrame(X.numpy(), index=[f"row {i}" for i in range(200)])
    state = torch.get_rng_state()
    table = wide.evaluate(frame, particles=5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(table.index) == list(frame.index)
    np.testing.assert_array_equal(table, wide.evaluate(X, particles=5, seed=3))


@pytest.mark.parametrize("limit", [16, 500])
def test_bounds_do_not_depend_on_chunks(
    exact: avi.AmortizedVI, wide: avi.AmortizedVI, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", limit)
    np.testing.assert_allclose(exact.evaluate(X, particles=4, seed=0)["elbo"], EVIDENCE, atol=1e-6)
    table = wide.evaluate(X, particles=10, seed=0)
    np.testing.assert_allclose(table["kl"], kl_to_standard_normal(wide.guide.get_posterior(X)).detach())


@pytest.mark.parametrize("options", [{"batch_size": 200}, {"batch_size": 32}, {"batch_size": 32, "drop_last": True}])
def test_observations_of_a_loader(
    exact: avi.AmortizedVI, options: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "NUMBERS_AT_ONCE", 5000)
    table = exact.evaluate(DataLoader(TensorDataset(X), **options), particles=4, seed=0)
    np.testing.assert_allclose(table["elbo"], EVIDENCE[: len(table)], atol=1e-6)
    assert len(table) == (192 if "drop_last" in options else 200)


def test_a_given_posterior_is_evaluated(exact: avi.AmortizedVI, wide: avi.AmortizedVI) -> None:
    refined = wide.refine(X[:5], seed=0)
    table = wide.evaluate(posterior=refined, particles=50, seed=0)
    np.testing.assert_allclose(table["elbo"], EVIDENCE[:5], atol=1e-3)
    with pytest.raises(OptionError, match="posterior belongs to another AmortizedVI"):
        exact.evaluate(posterior=refined)


def test_options_are_checked(exact: avi.AmortizedVI) -> None:
    with pytest.raises(OptionError, match="particles must be a positive integer; got 0"):
        exact.evaluate(X, particles=0)
