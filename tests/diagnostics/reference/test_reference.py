"""NUTS against exact posteriors, and what it says of approximate ones."""

import math

import arviz
import numpy as np
import pandas as pd
import pyro
import pytest
import torch
import xarray
from matplotlib import pyplot as plt
from pyro import distributions as dist
from torch import Tensor

import amortvi as avi
from amortvi._util.modes import random_state
from amortvi.diagnostics import Reference
from amortvi.errors import AmortviWarning, DataError, NonFiniteError, OptionError
from tests.any_models import CASES
from tests.arviz_versions import IS_OLD, PLOTS, groups
from tests.exact import linear_gaussian, solved, with_parameters

MODEL = linear_gaussian(dtype=torch.float32)
X = pd.DataFrame(MODEL.simulate(4, seed=1).numpy(), index=["a", "b", "c", "d"])
EXACT = MODEL.posterior(torch.tensor(X.to_numpy()))

SHORT = {"chains": 2, "draws": 8, "warmup": 8, "seed": 0, "progress": False}
few_draws = pytest.mark.filterwarnings("ignore:.*r-hat above:amortvi.errors.AmortviWarning")


@pytest.fixture(scope="module")
def vi():
    return solved(MODEL)


@pytest.fixture(scope="module")
def nuts(vi):
    return avi.reference(vi, X, chains=2, draws=400, warmup=100, together=4, seed=1, progress=False)


@pytest.fixture(scope="module")
def short(vi):
    with pytest.warns(AmortviWarning, match="fewer than 100 effective draws a chain"):
        return avi.reference(vi, X, **SHORT)


def test_draws_have_the_exact_mean_and_covariance(nuts):
    draws = nuts.vector.double().flatten(0, 1)
    spread = EXACT.variance.sqrt()
    assert ((draws.mean(0) - EXACT.mean).abs() < 5 * spread / nuts.ess.sqrt().unsqueeze(-1)).all()
    centred = draws - draws.mean(0)
    covariance = torch.einsum("kni,knj->nij", centred, centred) / len(draws)
    error = (covariance - EXACT.covariance_matrix) / (spread.unsqueeze(-1) * spread.unsqueeze(-2))
    # A squared Gaussian has variance two.
    assert (error.abs() < 5 * (2 / nuts.ess).sqrt()[:, None, None]).all()


def test_the_chains_are_as_good_as_arviz_says(nuts):
    data = xarray.Dataset({"v": (("chain", "draw", "n", "d"), nuts.vector.double().numpy())})
    np.testing.assert_allclose(nuts.r_hat, arviz.rhat(data)["v"].max("d"))
    bulk, tail = (arviz.ess(data, method=method)["v"].min("d") for method in ("bulk", "tail"))
    np.testing.assert_allclose(nuts.ess, np.minimum(bulk, tail))
    assert nuts.trusted.all()
    table = nuts.to_frame()
    assert list(table.index) == list(X.index)
    assert list(table.columns) == ["r_hat", "ess", "divergences"]
    assert (table["divergences"] == 0).all()


def test_distances_are_those_of_chance_for_the_exact_posterior_and_large_for_others(vi, nuts):
    exact, chance = nuts.distances(vi.posterior(X)), nuts.noise()
    for name in ("mean_error", "covariance_error", "sliced_wasserstein"):
        assert (getattr(exact, name) < 2 * getattr(chance, name).max()).all()
    assert ((exact.c2st_accuracy - 0.5).abs() < 0.07).all()
    wide = nuts.distances(solved(MODEL, widen=3.0).posterior(X))
    assert (wide.covariance_error > 5).all()
    assert (wide.c2st_accuracy > 0.65).all()
    shifted = nuts.distances(vi.posterior(X + 3.0), c2st=False)
    assert (shifted.mean_error > 0.5).all()
    assert shifted.c2st_accuracy is None
    assert list(exact.to_frame().columns) == ["mean_error", "covariance_error", "sliced_wasserstein", "c2st_accuracy"]
    assert list(exact.to_frame().index) == list(X.index)
    blind = nuts.distances(solved(MODEL, avi.families.Diagonal).posterior(X), c2st=False)
    assert (blind.covariance_error > exact.covariance_error).all()


def counts(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        rate = pyro.sample("rate", dist.Gamma(4.0, 2.0))
        pyro.sample("x", dist.Poisson(rate), obs=x)


@few_draws
def test_a_constrained_latent_is_given_in_its_own_support():
    x = torch.tensor([1.0, 7.0])
    vi = with_parameters(counts, torch.tensor([0.5, -1.0]), x, avi.families.Diagonal)
    found = avi.reference(vi, x, chains=2, draws=150, warmup=75, together=2, seed=0, progress=False)
    rate = found.values["rate"].double()
    assert rate.shape == (2, 150, 2)
    error = (rate.mean((0, 1)) - (4 + x) / 3) / ((4 + x).sqrt() / 3 / found.ess.sqrt())
    assert (error.abs() < 5).all()


@few_draws
@pytest.mark.parametrize("name", ["many supports", "plates on both sides", "keywords", "convolutions"])
def test_any_model_beside_its_approximate_posterior_in_arviz(name):
    case = CASES[name]
    with random_state(0):
        vi = avi.AmortizedVI(case.make(), case.make_encoder())
    vi.fit(case.x, epochs=1, progress=False, seed=0)
    found = avi.reference(vi, case.x, together=12, **SHORT)
    for site, shape in case.shapes.items():
        assert found.values[site].shape == (2, 8, 12, *shape)
    exported = groups(found.to_arviz())
    mine, theirs = exported["posterior"], groups(vi.to_arviz(case.x, draws=8, seed=0))["posterior"]
    assert set(mine.data_vars) == set(case.shapes)
    for site in case.shapes:
        assert mine[site].dims == theirs[site].dims
        assert mine[site].shape == (2, *theirs[site].shape[1:])
        assert exported["sample_stats"]["diverging"].dims == theirs[site].dims[:3]


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")  # ArviZ 0.x on Matplotlib 3.11
# ArviZ 1.x joins models with different numbers of chains, and relies on a default of xarray that will change.
@pytest.mark.filterwarnings("ignore:In a future version of xarray the default value for join:FutureWarning")
def test_arviz_reads_the_two_side_by_side(vi, nuts):
    data = nuts.to_arviz()
    both = {"q": vi.to_arviz(X, draws=50, seed=0), "NUTS": data}
    assert list(groups(data)["posterior"]["data"].values) == list(X.index)
    assert float(groups(data)["posterior"]["z"].sel(data="b").mean()) == pytest.approx(
        float(nuts.values["z"][:, :, 1].mean()), rel=1e-5
    )
    if IS_OLD:
        arviz.plot_forest([*both.values()], model_names=[*both])
    else:
        arviz.plot_forest(both)
    PLOTS["trace"](data)
    assert plt.gcf().axes
    plt.close("all")
    assert len(arviz.summary(data)) == 12


@few_draws
def test_a_seed_reproduces_whatever_comes_after(vi, short):
    state = torch.get_rng_state()
    fewer = avi.reference(vi, X.iloc[:2], **SHORT)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(fewer.vector, short.vector[:, :, :2])
    other = avi.reference(vi, X.iloc[:1], **{**SHORT, "seed": 5})
    assert not torch.equal(other.vector, short.vector[:, :, :1])


def test_nothing_is_left_behind(vi, short):
    assert not dict(pyro.get_param_store())
    assert all(parameter.grad is None for parameter in vi.generative.parameters())
    assert not short.vector.requires_grad


def test_chains_start_from_the_approximate_posterior(vi):
    """Far from the exact one and without time to leave."""
    far = solved(MODEL)
    with torch.no_grad():
        far.encoder.bias[:3] += 100
    with pytest.warns(AmortviWarning):
        found = avi.reference(far, X.iloc[:1], chains=2, draws=4, warmup=0, seed=0, progress=False)
    assert (found.vector[:, 0].mean(0) - EXACT.mean[:1]).abs().max() > 20


def test_two_modes_that_chains_do_not_leave_are_said():
    def two_modes(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 5.0))
            pyro.sample("x", dist.Normal(z.abs(), 0.1), obs=x)

    x = torch.tensor([5.0])
    vi = with_parameters(two_modes, torch.tensor([0.0, 1.6]), x, avi.families.Diagonal)
    with pytest.warns(AmortviWarning, match="1 of 1 observations have an r-hat above 1.01"):
        found = avi.reference(vi, x, chains=4, draws=30, warmup=30, seed=0, progress=False)
    assert found.r_hat > 1.5
    assert not found.trusted


def test_divergences_are_counted_and_said():
    """A wall that trajectories run into, which no step size fits."""

    def walled(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("wall", torch.where(z > 1, 1e5 * (1 - z), 0.0))

    x = torch.zeros(1)
    vi = with_parameters(walled, torch.tensor([0.0, -1.0]), x, avi.families.Diagonal)
    with pytest.warns(AmortviWarning, match="1 have divergences"):
        found = avi.reference(vi, x, chains=2, draws=50, warmup=0, seed=0, progress=False)
    assert found.divergences > 0
    assert found.divergences == found.diverging.sum()
    assert int(found.divergences) == int(groups(found.to_arviz())["sample_stats"]["diverging"].sum())


def test_a_start_without_a_density():
    def broken(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)
            pyro.factor("penalty", torch.where(x > 5, math.nan, 0.0))

    vi = with_parameters(broken, torch.zeros(2), torch.zeros(2), avi.families.Diagonal)
    with pytest.raises(NonFiniteError, match="not finite at a draw of the approximate posterior"):
        avi.reference(vi, torch.tensor([6.0]), **SHORT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chains": 1}, "chains must be at least 2"),
        ({"draws": 3}, "draws must be at least 4"),
        ({"warmup": -1}, "warmup must be"),
        ({"together": 0}, "together must be a positive integer"),
        ({"target_accept": 1.0}, "target_accept must be a probability below 1"),
        ({"seed": -1}, "seed must be an integer"),
    ],
)
def test_options_out_of_range(vi, options, message):
    with pytest.raises(OptionError, match=message):
        avi.reference(vi, X, **{**SHORT, **options})


def test_a_posterior_of_something_else(vi, short: Reference):
    with pytest.raises(OptionError, match="got AmortizedVI"):
        short.distances(vi)
    with pytest.raises(DataError, match="it is of 2 with"):
        short.distances(vi.posterior(X.iloc[:2]))
    with pytest.raises(DataError, match="their labels differ"):
        short.distances(vi.posterior(X.iloc[::-1]))


def test_what_is_printed(short):
    assert repr(short).startswith("Reference(4 observations, 2 chains of 8 draws: r-hat up to ")
