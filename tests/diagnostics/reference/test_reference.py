"""Comparison of approximate posteriors with a reference. Its draws are independent and exact: no result depends on NUTS."""

import math
import warnings
from dataclasses import replace

import arviz
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

import amortvi as avi
from amortvi.diagnostics.reference import Reference
from amortvi.diagnostics.reference.nuts import chain_diagnostics
from amortvi.diagnostics.reference.reference import unconstrained_draws, warn_of_unreliable_chains
from amortvi.errors import AmortviWarning, DataError, OptionError
from tests.arviz_versions import IS_OLD, PLOTS, groups
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian(dtype=torch.float32)
X = pd.DataFrame(MODEL.simulate(4, seed=1).numpy(), index=["a", "b", "c", "d"])
EXACT = MODEL.posterior(torch.tensor(X.to_numpy()))
DRAWS = 1000


@pytest.fixture(scope="module")
def vi():
    return solved(MODEL)


@pytest.fixture(scope="module")
def exact(vi):
    """Two chains of independent draws."""
    torch.manual_seed(0)
    vector = EXACT.sample((2, DRAWS))
    diverging = torch.zeros(2, DRAWS, 4, dtype=torch.bool)
    return Reference(vector, diverging, *chain_diagnostics(vector), vi.generative.structure, X.index)


def test_exact_posterior_is_as_close_as_chance_allows(vi, exact):
    found, chance = exact.distances(vi.posterior(X), c2st=False), exact.noise()
    for name in ("mean_error", "covariance_error", "sliced_wasserstein"):
        assert (getattr(found, name) < 3 * getattr(chance, name).max()).all()
    assert (found.mean_error < 5 * math.sqrt(1 / DRAWS)).all()


def test_wrong_posteriors_are_far(vi, exact):
    wide = exact.distances(solved(MODEL, widen=3.0).posterior(X), c2st=False)
    assert (wide.covariance_error > 5).all()
    shifted = exact.distances(vi.posterior(X + 3.0), c2st=False)
    assert (shifted.mean_error > 0.5).all()
    diagonal = exact.distances(solved(MODEL, avi.families.Diagonal).posterior(X), c2st=False)
    assert (diagonal.covariance_error > 2 * exact.noise().covariance_error).all()


def test_classifier_tells_wrong_posteriors_apart(vi, exact):
    one = replace(exact, **{name: getattr(exact, name)[:1] for name in ("r_hat", "ess")}, vector=exact.vector[:, :, :1])
    one = replace(one, diverging=exact.diverging[:, :, :1], index=X.index[:1])
    # The standard error of the accuracy for about 2,000 draws of each is 0.01.
    right = one.distances(vi.posterior(X.iloc[:1]))
    assert abs(float(right.c2st_accuracy) - 0.5) < 0.07
    assert one.distances(solved(MODEL, widen=3.0).posterior(X.iloc[:1])).c2st_accuracy > 0.65
    assert list(right.to_frame().columns) == ["mean_error", "covariance_error", "sliced_wasserstein", "c2st_accuracy"]
    assert list(right.to_frame().index) == ["a"]


def test_seed_reproduces_distances_and_leaves_the_random_state_untouched(vi, exact):
    state = torch.get_rng_state()
    first, second = (exact.distances(vi.posterior(X), c2st=False, seed=3).mean_error for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_unconstrained_draws_follow_the_posterior(vi):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = unconstrained_draws(vi.posterior(X), 500)
    assert draws.shape == (500, 4, 3)
    assert ((draws.mean(0) - EXACT.mean).abs() < 5 * (EXACT.variance / 500).sqrt()).all()


@pytest.fixture
def mixed(exact):
    """One reliable observation, and three that are unreliable for one reason each; one trajectory diverged."""
    diverging = exact.diverging.clone()
    diverging[0, 3, 0] = True
    r_hat, ess = torch.tensor([1.01, 1.02, math.nan, 1.0]), torch.tensor([200.0, 900.0, 900.0, 199.0])
    return replace(exact, diverging=diverging, r_hat=r_hat.double(), ess=ess.double())


def test_reliability_depends_on_r_hat_and_effective_sample_size(mixed):
    assert mixed.reliable.tolist() == [True, False, False, False]
    with pytest.warns(AmortviWarning, match="3 of 4 observations have an r-hat above 1.01 .* and 1 have divergences"):
        warn_of_unreliable_chains(mixed)


def test_reliable_chains_cause_no_warning(mixed):
    good = replace(mixed, r_hat=torch.full((4,), 1.005), ess=torch.full((4,), 300.0), diverging=mixed.diverging & False)
    assert good.reliable.all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_unreliable_chains(good)


def test_frame_and_repr(mixed):
    table = mixed.to_frame()
    assert list(table.index) == list(X.index)
    assert list(table.columns) == ["r_hat", "ess", "divergences"]
    assert table["divergences"].tolist() == [1, 0, 0, 0]
    good = replace(mixed, r_hat=torch.full((4,), 1.005))
    assert (
        repr(good)
        == "Reference(4 observations, 2 chains of 1000 draws: r-hat up to 1.005, ess from 199, 1 divergences)"
    )


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")  # ArviZ 0.x with Matplotlib 3.11
# ArviZ 1.x joins models with different numbers of chains and relies on a default of xarray that will change.
@pytest.mark.filterwarnings("ignore:In a future version of xarray the default value for join:FutureWarning")
def test_arviz_compares_reference_and_approximate_posterior(vi, exact):
    data = exact.to_arviz()
    both = {"q": vi.to_arviz(X, draws=50, seed=0), "NUTS": data}
    assert list(groups(data)["posterior"]["data"].values) == list(X.index)
    assert float(groups(data)["posterior"]["z"].sel(data="b").mean()) == pytest.approx(
        float(exact.values["z"][:, :, 1].mean()), rel=1e-5
    )
    if IS_OLD:
        arviz.plot_forest([*both.values()], model_names=[*both])
    else:
        arviz.plot_forest(both)
    PLOTS["trace"](data)
    assert plt.gcf().axes
    plt.close("all")
    assert len(arviz.summary(data)) == 12


def test_posterior_of_something_else_is_refused(vi, exact):
    with pytest.raises(OptionError, match=r"posterior must be a Posterior.*got AmortizedVI"):
        exact.distances(vi)
    with pytest.raises(DataError, match="got 2 observations"):
        exact.distances(vi.posterior(X.iloc[:2]))
    with pytest.raises(DataError, match="labels differ"):
        exact.distances(vi.posterior(X.iloc[::-1]))
