"""NUTS draws from the exact posterior, and its chains are diagnosed."""

import math

import arviz
import numpy as np
import pandas as pd
import pyro
import pytest
import torch
import xarray
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi
from amortvi.diagnostics.reference import nuts, reference
from amortvi.errors import AmortviWarning, NonFiniteError, OptionError
from tests.any_models import CASES
from tests.any_models.estimators import fitted
from tests.arviz_versions import groups
from tests.exact import gamma_poisson, linear_gaussian, solved, with_parameters

MODEL = linear_gaussian(2, 4, dtype=torch.float32)
X = MODEL.simulate(3, seed=1)
EXACT = MODEL.posterior(X)
VI = solved(MODEL)

SHORT = {"chains": 2, "draws": 6, "warmup": 4, "seed": 0, "progress": False}
# How large r-hat is for few draws depends on the seed and on the processor; a test that needs few draws ignores it.
few_draws = pytest.mark.filterwarnings("ignore:.*r-hat above:amortvi.errors.AmortviWarning")


@few_draws
def test_draws_have_the_exact_mean_and_covariance():
    found = reference(VI, X, chains=2, draws=100, warmup=40, together=3, seed=1, progress=False)
    draws, std = found.vector.double().flatten(0, 1), EXACT.variance.sqrt()
    assert ((draws.mean(0) - EXACT.mean).abs() < 5 * std / found.ess.sqrt().unsqueeze(-1)).all()
    centered = draws - draws.mean(0)
    covariance = torch.einsum("kni,knj->nij", centered, centered) / len(draws)
    error = (covariance - EXACT.covariance_matrix) / (std.unsqueeze(-1) * std.unsqueeze(-2))
    # The square of a standard normal variable has variance two.
    assert (error.abs() < 5 * (2 / found.ess).sqrt()[:, None, None]).all()


@few_draws
def test_constrained_latent_is_returned_in_its_own_support():
    x = torch.tensor([1.0, 7.0])
    vi = with_parameters(gamma_poisson, torch.tensor([0.5, -1.0]), x, avi.families.Diagonal)
    found = reference(vi, x, chains=2, draws=120, warmup=60, together=2, seed=0, progress=False)
    rate = found.values["rate"].double()
    assert rate.shape == (2, 120, 2)
    error = (rate.mean((0, 1)) - (4 + x) / 3) / ((4 + x).sqrt() / 3 / found.ess.sqrt())
    assert (error.abs() < 5).all()


@few_draws
@pytest.mark.parametrize("name", ["many supports", "plates on both sides", "keywords"])
def test_any_model_has_the_layout_of_its_approximate_posterior_in_arviz(name):
    case, vi = CASES[name], fitted(name)
    found = reference(vi, case.x, together=12, **SHORT)
    for site, shape in case.shapes.items():
        assert found.values[site].shape == (2, 6, 12, *shape)
    exported = groups(found.to_arviz())
    exact, approximate = exported["posterior"], groups(vi.to_arviz(case.x, draws=6, seed=0))["posterior"]
    assert set(exact.data_vars) == set(case.shapes)
    for site in case.shapes:
        assert exact[site].dims == approximate[site].dims
        assert exact[site].shape == (2, *approximate[site].shape[1:])
        assert exported["sample_stats"]["diverging"].dims == approximate[site].dims[:3]


@few_draws
def test_draws_of_an_observation_do_not_depend_on_the_others():
    two = reference(VI, pd.DataFrame(X[:2].numpy(), index=["a", "b"]), **SHORT)
    assert torch.equal(reference(VI, posterior=VI.posterior(X).select([0]), **SHORT).vector, two.vector[:, :, :1])
    assert list(two.to_frame().index) == ["a", "b"]
    assert not two.vector.requires_grad


def test_chains_start_at_draws_of_the_approximate_posterior(monkeypatch):
    def stay(log_joint, start, options, advance):
        return start.expand(options.draws, *start.shape), torch.zeros(options.draws, dtype=torch.bool)

    monkeypatch.setattr(nuts, "sample_chain", stay)
    options = nuts.NUTSOptions(chains=500, draws=4, warmup=0, together=2, target_accept=0.8, progress=False)
    vector, _ = nuts.sample_chains(VI.posterior(X), options, seed=0)
    starts = vector[:, 0]
    assert ((starts.mean(0) - EXACT.mean).abs() < 5 * EXACT.variance.sqrt() / math.sqrt(500)).all()
    assert ((starts.var(0) / EXACT.variance - 1).abs() < 5 * math.sqrt(2 / 500)).all()


def test_chains_in_different_modes_are_unreliable():
    def two_modes(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 5.0))
            pyro.sample("x", dist.Normal(z.abs(), 0.1), obs=x)

    x = torch.tensor([5.0])
    vi = with_parameters(two_modes, torch.tensor([0.0, 1.6]), x, avi.families.Diagonal)
    with pytest.warns(AmortviWarning, match="1 of 1 observations have an r-hat above 1.01"):
        found = reference(vi, x, chains=16, draws=8, warmup=8, seed=0, progress=False)
    assert found.r_hat > 1.5  # all 16 chains are in one mode with probability 2 ** -15
    assert not found.reliable


def penalized(penalty):
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("penalty", penalty(x, z))

    return with_parameters(model, torch.tensor([0.0, -1.0]), torch.zeros(1), avi.families.Diagonal)


def test_divergences_are_counted():
    """Trajectories run against a wall, whatever the step size."""
    vi = penalized(lambda x, z: torch.where(z > 1, 1e5 * (1 - z), 0.0))
    with pytest.warns(AmortviWarning, match="1 have divergences"):
        found = reference(vi, torch.zeros(1), chains=2, draws=60, warmup=0, seed=0, progress=False)
    assert found.divergences > 0
    assert found.divergences == found.diverging.sum()
    assert int(found.divergences) == int(groups(found.to_arviz())["sample_stats"]["diverging"].sum())


def test_start_without_a_density_is_an_error():
    vi = penalized(lambda x, z: torch.where(x > 5, math.nan, 0.0))
    with pytest.raises(NonFiniteError, match="not finite at a draw of the approximate posterior"):
        reference(vi, torch.tensor([6.0]), **SHORT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chains": 1}, "chains must be .* at least 2"),
        ({"draws": 3}, "draws must be .* at least 4"),
        ({"warmup": -1}, "warmup must be"),
        ({"together": 0}, "together must be a positive integer"),
        ({"target_accept": 1.0}, "target_accept must lie strictly between 0 and 1"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(OptionError, match=message):
        reference(VI, X, **{**SHORT, **options})


def test_chain_diagnostics_are_those_of_the_worst_coordinate():
    vector = torch.randn(2, 100, 3, 2, generator=torch.Generator().manual_seed(0))
    vector[0, :, 1, 1] += 5
    vector[:, :, 2, 0] = 1.0
    r_hat, ess = nuts.chain_diagnostics(vector)
    data = xarray.Dataset({"v": (("chain", "draw", "n", "d"), vector[:, :, :2].double().numpy())})
    np.testing.assert_allclose(r_hat[:2], arviz.rhat(data)["v"].max("d"))
    bulk, tail = (arviz.ess(data, method=method)["v"].min("d") for method in ("bulk", "tail"))
    np.testing.assert_allclose(ess[:2], np.minimum(bulk, tail))
    assert r_hat[1] > 1.5
    assert r_hat[2].isnan()  # a coordinate that does not vary
