"""Distances between samples, and comparisons of posteriors with a reference of independent exact draws, not of NUTS."""

import math
from dataclasses import replace

import arviz
import pandas as pd
import pytest
import torch
from matplotlib import pyplot as plt

import amortvi as avi
from amortvi.diagnostics.reference import Reference, distances
from amortvi.diagnostics.reference.distances import sliced_wasserstein
from amortvi.diagnostics.reference.nuts import chain_diagnostics
from amortvi.diagnostics.reference.reference import warn_of_unreliable_chains
from amortvi.errors import AmortviWarning, DataError, OptionError
from tests.arviz_versions import IS_OLD, PLOTS, groups
from tests.exact import linear_gaussian, solved

DRAWS, DIM = 5000, 3
NOISE = math.sqrt(2 / DRAWS)
"""The standard error of a difference of means, in standard deviations."""
UNITS = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
"""The units of the coordinates, on which no distance depends."""


def gaussian(seed: int, *, shift: float = 0.0, widen: float = 1.0, correlation: float = 0.0) -> torch.Tensor:
    """Return draws ``(DRAWS, 1, DIM)``; shift and width are in standard deviations of the reference."""
    noise = torch.randn(DRAWS, 1, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    covariance = torch.full((DIM, DIM), correlation, dtype=torch.float64).fill_diagonal_(1.0)
    return (shift + widen * noise @ torch.linalg.cholesky(covariance).mT) * UNITS


@pytest.mark.parametrize(
    ("options", "mean", "covariance", "sliced"),
    [({}, 0, 0, 0), ({"shift": 0.5}, 0.5, 0, 0.5), ({"widen": 0.5}, 0, 0.75, 0.5), ({"widen": 2.0}, 0, 3, 1)],
)
def test_shift_and_width(options, mean, covariance, sliced):
    found = distances(gaussian(0, **options), gaussian(1), seed=0)
    assert float(found.mean_error) == pytest.approx(mean, abs=5 * NOISE * options.get("widen", 1))
    assert float(found.covariance_error) == pytest.approx(covariance, rel=0.15, abs=8 * NOISE)
    # The shift along a random direction has the mean square 0.25, which 128 directions estimate to about 8%.
    assert float(found.sliced_wasserstein) == pytest.approx(sliced, rel=0.25, abs=8 * NOISE)


def test_missing_correlation():
    found = distances(gaussian(0), gaussian(1, correlation=0.9), seed=0)
    expected = math.sqrt(6 * 0.81) / math.sqrt(3 + 6 * 0.81)
    assert float(found.covariance_error) == pytest.approx(expected, rel=0.1)
    assert found.sliced_wasserstein > 0.2
    assert found.mean_error < 8 * NOISE


def test_only_the_wasserstein_distance_sees_another_shape_with_the_same_moments():
    sign = torch.randint(2, (DRAWS, 1, DIM), generator=torch.Generator().manual_seed(3)) * 2.0 - 1
    two_modes = (0.95 * sign + math.sqrt(1 - 0.95**2) * gaussian(0) / UNITS) * UNITS
    found, chance = (distances(draws, gaussian(1), seed=0) for draws in (two_modes, gaussian(2)))
    assert found.mean_error < 5 * NOISE
    assert found.covariance_error < 8 * NOISE
    assert found.sliced_wasserstein > 2 * chance.sliced_wasserstein


def test_sample_sizes_can_differ():
    points = torch.linspace(0, 1, 6, dtype=torch.float64).unsqueeze(-1)
    assert sliced_wasserstein(points, points.repeat_interleave(3, dim=0)) == 0
    assert float(sliced_wasserstein(points.repeat_interleave(2, dim=0) + 1, points)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("draws", "reference", "message"),
    [
        (torch.zeros(5, 2, 3), torch.zeros(5, 1, 3), r"got \(5, 2, 3\) and \(5, 1, 3\)"),
        (torch.zeros(5, 3), torch.zeros(5, 3), "must have shape"),
        (torch.zeros(1, 2, 3), torch.zeros(5, 2, 3), "at least 2"),
        (torch.full((5, 2, 3), math.nan), torch.randn(5, 2, 3), "draws must be finite; 30 of its values"),
        (torch.randn(5, 2, 3), torch.ones(5, 2, 3), "reference must vary"),
    ],
)
def test_bad_draws(draws, reference, message):
    with pytest.raises(DataError, match=message):
        distances(draws, reference)


MODEL = linear_gaussian(dtype=torch.float32)
X = pd.DataFrame(MODEL.simulate(4, seed=1).numpy(), index=["a", "b", "c", "d"])
EXACT = MODEL.posterior(torch.tensor(X.to_numpy()))
CHAIN = 1000
VI = solved(MODEL)
WIDE = solved(MODEL, widen=3.0)


@pytest.fixture(scope="module")
def exact():
    """Two chains of independent draws."""
    torch.manual_seed(0)
    vector = EXACT.sample((2, CHAIN))
    diverging = torch.zeros(2, CHAIN, 4, dtype=torch.bool)
    return Reference(vector, diverging, *chain_diagnostics(vector), VI.generative.structure, X.index)


def test_exact_posterior_is_as_close_as_chance_allows_and_wrong_posteriors_are_far(exact):
    right, chance = exact.distances(VI.posterior(X), c2st=False), exact.noise()
    for name in ("mean_error", "covariance_error", "sliced_wasserstein"):
        assert (getattr(right, name) < 3 * getattr(chance, name).max()).all()
    assert (right.mean_error < 5 * math.sqrt(1 / CHAIN)).all()
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
