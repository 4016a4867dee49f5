"""Comparison of approximate posteriors with a reference. Its draws are independent and exact: no result depends on NUTS."""

import math
from dataclasses import replace

import arviz
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

import amortvi as avi
from amortvi.diagnostics.reference import Reference
from amortvi.diagnostics.reference.nuts import chain_diagnostics
from amortvi.diagnostics.reference.reference import warn_of_unreliable_chains
from amortvi.errors import AmortviWarning, DataError, OptionError
from tests.arviz_versions import IS_OLD, PLOTS, groups
from tests.exact import linear_gaussian, solved

MODEL = linear_gaussian(dtype=torch.float32)
X = pd.DataFrame(MODEL.simulate(4, seed=1).numpy(), index=["a", "b", "c", "d"])
EXACT = MODEL.posterior(torch.tensor(X.to_numpy()))
DRAWS = 1000
VI = solved(MODEL)
WIDE = solved(MODEL, widen=3.0)


@pytest.fixture(scope="module")
def exact():
    """Two chains of independent draws."""
    torch.manual_seed(0)
    vector = EXACT.sample((2, DRAWS))
    diverging = torch.zeros(2, DRAWS, 4, dtype=torch.bool)
    return Reference(vector, diverging, *chain_diagnostics(vector), VI.generative.structure, X.index)


def test_exact_posterior_is_as_close_as_chance_allows_and_wrong_posteriors_are_far(exact):
    right, chance = exact.distances(VI.posterior(X), c2st=False), exact.noise()
    for name in ("mean_error", "covariance_error", "sliced_wasserstein"):
        assert (getattr(right, name) < 3 * getattr(chance, name).max()).all()
    assert (right.mean_error < 5 * math.sqrt(1 / DRAWS)).all()
    wrong = (WIDE.posterior(X), VI.posterior(X + 3.0), solved(MODEL, avi.families.Diagonal).posterior(X))
    wide, shifted, diagonal = (exact.distances(posterior, c2st=False) for posterior in wrong)
    assert (wide.covariance_error > 5).all()
    assert (shifted.mean_error > 0.5).all()
    assert (diagonal.covariance_error > 2 * chance.covariance_error).all()


def test_classifier_tells_wrong_posteriors_apart(exact):
    one = replace(exact, vector=exact.vector[:, :, :1], ess=exact.ess[:1], index=X.index[:1])
    # The standard error of the accuracy for about 2,000 draws of each is 0.01.
    right = one.distances(VI.posterior(X.iloc[:1]))
    assert abs(float(right.c2st_accuracy) - 0.5) < 0.07
    assert one.distances(WIDE.posterior(X.iloc[:1])).c2st_accuracy > 0.65
    assert list(right.to_frame().columns) == ["mean_error", "covariance_error", "sliced_wasserstein", "c2st_accuracy"]
    assert list(right.to_frame().index) == ["a"]


def test_reliability_depends_on_r_hat_and_effective_sample_size(exact):
    good = replace(exact, r_hat=torch.full((4,), 1.005), ess=torch.full((4,), 300.0))
    assert good.reliable.all()
    warn_of_unreliable_chains(good)  # a warning is an error
    r_hat, ess = torch.tensor([1.01, 1.02, math.nan, 1.0]).double(), torch.tensor([200.0, 900.0, 900.0, 199.0])
    mixed = replace(exact, diverging=exact.diverging.index_fill(2, torch.tensor(0), True), r_hat=r_hat, ess=ess)
    assert mixed.reliable.tolist() == [True, False, False, False]
    with pytest.warns(AmortviWarning, match="3 of 4 observations have an r-hat above 1.01 .* and 1 have divergences"):
        warn_of_unreliable_chains(mixed)
    table = mixed.to_frame()
    assert list(table.index) == list(X.index)
    assert list(table.columns) == ["r_hat", "ess", "divergences"]
    assert table["divergences"].tolist() == [2000, 0, 0, 0]
    summary = "4 observations, 2 chains of 1000 draws: r-hat up to 1.005, ess from 300, 0 divergences"
    assert repr(good) == f"Reference({summary})"


@pytest.mark.filterwarnings("ignore:Passing a dict or None as alias_mapping")  # ArviZ 0.x with Matplotlib 3.11
# ArviZ 1.x joins models with different numbers of chains and relies on a default of xarray that will change.
@pytest.mark.filterwarnings("ignore:In a future version of xarray the default value for join:FutureWarning")
def test_arviz_compares_reference_and_approximate_posterior(exact):
    data = exact.to_arviz()
    both = {"q": VI.to_arviz(X, draws=50, seed=0), "NUTS": data}
    assert list(groups(data)["posterior"]["data"].values) == list(X.index)
    mean = float(groups(data)["posterior"]["z"].sel(data="b").mean())
    assert mean == pytest.approx(float(exact.values["z"][:, :, 1].mean()), rel=1e-5)
    if IS_OLD:
        arviz.plot_forest([*both.values()], model_names=[*both])
    else:
        arviz.plot_forest(both)
    PLOTS["trace"](data)
    assert plt.gcf().axes
    plt.close("all")
    assert len(arviz.summary(data)) == 12


def test_posterior_of_something_else_is_refused(exact):
    with pytest.raises(OptionError, match=r"posterior must be a Posterior.*got AmortizedVI"):
        exact.distances(VI)
    with pytest.raises(DataError, match="got 2 observations"):
        exact.distances(VI.posterior(X.iloc[:2]))
    with pytest.raises(DataError, match="labels differ"):
        exact.distances(VI.posterior(X.iloc[::-1]))
