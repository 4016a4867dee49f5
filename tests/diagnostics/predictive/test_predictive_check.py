"""Predictive checks flag misfits and pass right models; their p-values have the distribution that theory states."""

import math

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from scipy import stats

import amortvi as avi
from amortvi._util import memory
from amortvi.diagnostics.predictive import CheckedStatistic, PredictiveCheck
from amortvi.diagnostics.predictive.site_check import ObservedSite, SiteCheck, read_observed_sites
from amortvi.diagnostics.predictive.statistics import NAMED, choose, evaluate
from amortvi.errors import DataError, ModelError, OptionError
from tests.any_models import CASES
from tests.any_models.estimators import fitted
from tests.exact import linear_gaussian, solved, with_parameters

MODEL = linear_gaussian()
X = MODEL.simulate(300, seed=1)
LATENTS = ["posterior", "prior"]
EXACT = solved(MODEL)


def p_values(check: PredictiveCheck) -> dict[str, float]:
    return {statistic.name: statistic.p_value for statistic in check.statistics}


def z_scores(check: PredictiveCheck, *names: str) -> list[float]:
    """Return how many standard deviations of the replications lie between data and replications."""
    chosen = [statistic for statistic in check.statistics if statistic.name in names]
    return [abs(float((s.observed - s.replicated.mean()) / s.replicated.std())) for s in chosen]


@pytest.mark.parametrize("latents", LATENTS)
@pytest.mark.parametrize("factor", [1, 0.4, 2.5])
def test_only_a_wrong_noise_scale_is_flagged(factor, latents):
    model = avi.models.LinearGaussian(MODEL.W, scale=float(MODEL.scale) * factor, bias=MODEL.bias)
    check = avi.predictive_check(solved(model), X, latents=latents, seed=0)
    if factor == 1:
        assert max(z_scores(check, "mean", "std")) < 6
    else:
        assert "std" in [statistic.name for statistic in check.misfits()]
        # With too little noise the standard deviation is larger in the data than in every replication.
        assert p_values(check)["std"] == pytest.approx(0.5 / 101 if factor < 1 else 1 - 0.5 / 101)
        assert "x std" in str(check)


def checked_counts(x, **options) -> PredictiveCheck:
    """Check a Poisson model whose posterior is its prior."""

    def model(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 0.05))
            pyro.sample("x", dist.Poisson(3 * z.exp()), obs=x)

    vi = with_parameters(model, torch.tensor([0.0, math.log(0.05)]), x, avi.families.Diagonal)
    return avi.predictive_check(vi, x, seed=0, **options)


@pytest.mark.parametrize("overdispersed", [False, True])
def test_poisson_model_of_overdispersed_counts_is_flagged(overdispersed):
    generator = torch.Generator().manual_seed(0)
    rate = torch.full((400,), 3.0)
    if overdispersed:  # Gamma-distributed rates give a negative binomial distribution with variance 3 + 9 / 2.
        rate = torch._standard_gamma(torch.full((400,), 2.0), generator=generator) * 1.5
    x = torch.poisson(rate, generator=generator)
    check = checked_counts(x, latents="prior")
    assert list(p_values(check)) == ["mean", "std", "min", "max", "zeros"]
    if overdispersed:
        assert {"std", "zeros"} <= {statistic.name for statistic in check.misfits()}
    else:
        assert max(z_scores(check, "mean", "std", "zeros")) < 6


def test_p_values_are_uniform_for_prior_latents_and_concentrated_for_posterior_latents():
    """Each observation of a right model: the prior predicts it as new data, its posterior has seen it."""
    checks = [avi.predictive_check(EXACT, X, draws=99, latents=latents, seed=0) for latents in LATENTS]
    posterior, prior = (check.observation_p_values for check in checks)
    assert sorted(prior) == ["x max", "x mean", "x min", "x std"]
    for values in prior.values():
        assert stats.kstest(values, "uniform").pvalue > 1e-6
    # The variance of uniform p-values is 1/12, with a relative standard error of about sqrt(0.8 / 300) = 0.05.
    assert prior["x mean"].var() > 0.7 / 12
    assert posterior["x mean"].var() < 0.5 / 12


def test_outlier_has_an_extreme_p_value():
    x = X.clone()
    x[7] += 15
    check = avi.predictive_check(EXACT, x, draws=199, latents="prior", seed=0)
    assert check.observation_p_values["x mean"][7] == pytest.approx(0.5 / 200)


def test_p_values_of_one_observation_and_of_observations_with_one_value():
    check = avi.predictive_check(EXACT, X[:1], draws=20, seed=0)
    assert {name.removeprefix("x "): float(p) for name, p in check.observation_p_values.items()} == p_values(check)
    x = torch.poisson(torch.full((20,), 3.0), generator=torch.Generator().manual_seed(0))
    assert list(checked_counts(x, draws=10).observation_p_values) == ["x mean"]


def test_misfits_are_sorted_by_p_value():
    replicated = torch.arange(999.0)
    statistics = tuple(CheckedStatistic("x", str(value), value, replicated) for value in (500.0, 2.5, -1.0))
    check = PredictiveCheck("prior", statistics, {})
    assert [statistic.name for statistic in check.misfits()] == ["-1.0", "2.5"]
    assert [statistic.name for statistic in check.misfits(0.002)] == ["-1.0"]
    assert str(check).startswith(
        "Mixed (latents from the prior) predictive check: 2 of 3 statistics have p < 0.01:\n  x -1"
    )
    with pytest.raises(OptionError, match="level"):
        check.misfits(0)


def test_callables_receive_whole_data_sets_and_can_return_several_numbers():
    shapes = []

    def feature_means(values):
        shapes.append(tuple(values.shape))
        return values.mean(0)

    check = avi.predictive_check(EXACT, X, {"feature means": feature_means}, draws=50, seed=0)
    assert set(shapes) == {(300, 5)}
    assert [statistic.name for statistic in check.statistics] == [f"feature means[{i}]" for i in range(5)]
    torch.testing.assert_close(torch.tensor([s.observed for s in check.statistics], dtype=X.dtype), X.mean(0))
    assert not check.observation_p_values
    # The replications of a feature have the mean W E[z | x] + bias.
    expected = (MODEL.posterior(X).mean @ MODEL.W.mT + MODEL.bias).mean(0)
    variance = (MODEL.W @ torch.linalg.inv(MODEL.precision()) @ MODEL.W.mT).diagonal() + MODEL.scale**2
    for position, statistic in enumerate(check.statistics):
        error = float(statistic.replicated.mean() - expected[position])
        assert abs(error) < 5 * math.sqrt(float(variance[position]) / (300 * 50))


def test_frames_have_the_labels_of_the_user():
    frame = pd.DataFrame(X.numpy(), index=[f"row {i}" for i in range(300)])
    check = avi.predictive_check(EXACT, frame, draws=20, seed=0)
    table = check.to_frame()
    assert list(table.index) == [("x", name) for name in ("mean", "std", "min", "max")]
    assert list(table.columns) == ["observed", "mean", "sd", "p_value", "two_sided"]
    np.testing.assert_allclose(table["observed"], [X.mean(), X.std(correction=0), X.min(), X.max()], rtol=1e-6)
    assert list(check.observations_frame().index) == list(frame.index)
    check = avi.predictive_check(EXACT, posterior=EXACT.posterior(frame).select(range(10)), draws=5, seed=0)
    assert list(check.observations_frame().index) == list(frame.index[:10])


@pytest.mark.parametrize("latents", LATENTS)
@pytest.mark.parametrize("name", [name for name in CASES if name != "a factor alone"])
def test_any_model(name, latents):
    vi, x = fitted(name), CASES[name].x
    check = avi.predictive_check(vi, x, draws=5, latents=latents, seed=0)
    assert {statistic.site for statistic in check.statistics} == set(vi.predict(x, draws=1)) - {"loc", "norm"}
    assert np.isfinite(check.to_frame().to_numpy()).all()


@pytest.mark.parametrize("latents", LATENTS)
def test_result_does_not_depend_on_the_size_of_chunks(monkeypatch, latents):
    whole = avi.predictive_check(EXACT, X, draws=2, latents=latents, seed=3)
    monkeypatch.setattr(memory, "NUMBERS_AT_ONCE", 3 * X.numel())  # three replicated data sets at once
    in_chunks = avi.predictive_check(EXACT, X, draws=20, latents=latents, seed=3)
    assert [statistic.observed for statistic in in_chunks.statistics] == [s.observed for s in whole.statistics]
    assert all(len(statistic.replicated) == 20 for statistic in in_chunks.statistics)
    assert max(z_scores(in_chunks, "mean", "std")) < 7  # standard deviations of 20 replications vary by a sixth


def test_bad_input():
    sizes = iter(range(1, 10))
    with pytest.raises(OptionError, match=r"latents must be one of \['posterior', 'prior'\]; got 'both'"):
        avi.predictive_check(EXACT, X, latents="both")
    with pytest.raises(OptionError, match="draws must be a positive integer"):
        avi.predictive_check(EXACT, X, draws=0)
    with pytest.raises(OptionError, match="'growing' must return as many numbers"):
        avi.predictive_check(EXACT, X, {"growing": lambda values: torch.ones(next(sizes))}, draws=2)


@pytest.mark.parametrize(
    ("replicated", "p"), [([1.0, 2.0, 4.0], 1.5 / 4), ([3.0, 3.0, 3.0], 2 / 4), ([4.0, 4.0, 5.0], 3.5 / 4)]
)
def test_ties_count_half(replicated, p):
    statistic = CheckedStatistic("x", "mean", 3.0, torch.tensor(replicated))
    assert statistic.p_value == pytest.approx(p)
    assert statistic.two_sided == pytest.approx(2 * min(p, 1 - p))


def masked(x, seen):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with poutine.mask(mask=seen.bool()):
            pyro.sample("x", dist.Poisson(z.sum(-1).exp()), obs=x)


def test_masked_values_are_missing():
    x, seen = torch.arange(50.0), torch.ones(50)
    seen[:10] = 0
    vi = avi.AmortizedVI(masked, avi.encoders.MLP(2, []), freeze_model=True).setup((x, seen), seed=0)
    (site,) = read_observed_sites(vi.posterior((x, seen)))
    assert (site.name, site.discrete) == ("x", True)
    assert site.values.isnan().tolist() == [True] * 10 + [False] * 40
    torch.testing.assert_close(site.values[10:], x[10:])
    check = avi.predictive_check(vi, (x, seen), ["min"], draws=20, seed=0)
    assert check.statistics[0].observed == 10
    with pytest.raises(DataError, match="no unmasked value at site 'x'"):
        read_observed_sites(vi.posterior((x[:10], seen[:10])))


def test_p_values_of_missing_observations_are_missing():
    site = ObservedSite("x", torch.tensor([[1.0, 2.0], [torch.nan, 3.0], [torch.nan, torch.nan]]), discrete=False)
    check = SiteCheck(site, {"max": "max"})
    check.add(torch.tensor([[[0.0, 3.0], [9.0, 1.0], [7.0, 7.0]]]))
    assert check.observation_p_values()["x max"].tolist() == pytest.approx([0.75, 0.25, torch.nan], nan_ok=True)
    (statistic,) = check.statistics()
    assert (statistic.observed, statistic.replicated.tolist()) == (3.0, [3.0])


def test_what_cannot_be_compared():
    with pytest.raises(ModelError, match="nothing to replicate"):
        avi.predictive_check(fitted("a factor alone"), CASES["a factor alone"].x, draws=3)
    check = SiteCheck(ObservedSite("x", torch.zeros(2, 3), discrete=False), {"mean": "mean"})
    with pytest.raises(ModelError, match="draws values of site 'x' that are not finite"):
        check.add(torch.full((1, 2, 3), torch.inf))


VALUES = torch.tensor([[0.0, 2.0, torch.nan], [torch.nan, -1.0, 4.0], [torch.nan, torch.nan, torch.nan]])
NUMPY = {"mean": np.nanmean, "std": np.nanstd, "min": np.nanmin, "max": np.nanmax}
NUMPY["zeros"] = lambda values, axis=None: np.sum(values == 0, axis=axis) / np.sum(~np.isnan(values), axis=axis)


@pytest.mark.parametrize("name", NAMED)
def test_missing_values_are_ignored(name):
    whole = NAMED[name](VALUES, [0, 1])
    assert float(whole) == pytest.approx(NUMPY[name](VALUES.numpy()))
    rows = NAMED[name](VALUES, [1])
    np.testing.assert_allclose(rows[:2], NUMPY[name](VALUES[:2].numpy(), axis=1))
    assert rows[2].isnan()
    infinite = torch.tensor([1.0, torch.inf])
    assert float(NAMED["max"](infinite, [0])) == -float(NAMED["min"](-infinite, [0])) == torch.inf


def test_choice_of_statistics():
    def skewness(values):
        return values.mean()

    assert list(choose(None, discrete=True)) == list(NAMED)
    assert "zeros" not in choose(None, discrete=False)
    assert list(choose(["mean", skewness], discrete=False)) == ["mean", "skewness"]
    assert list(choose({"mine": skewness, "location": "mean"}, discrete=False)) == ["mine", "location"]
    for wrong in ("mean", 3, [], ["median"], ["mean", "mean"], [lambda v: v, lambda v: v]):
        with pytest.raises(OptionError, match="statistics"):
            choose(wrong, discrete=False)


def test_callables_can_return_several_numbers():
    values = torch.arange(6.0).reshape(3, 2)
    found = evaluate("means", lambda v: v.mean(0), values, "x")
    assert found.tolist() == [2, 3]
    assert found.dtype == torch.float64
    assert evaluate("count", lambda v: np.int64(len(v)), values, "x").tolist() == [3]


def test_failing_callables_are_named():
    values = torch.zeros(3, 2)
    with pytest.raises(OptionError, match=r"statistic 'broken' failed .* site 'x', of shape \(3, 2\): IndexError"):
        evaluate("broken", lambda v: v[5], values, "x")
    for wrong in (lambda v: v.mean() / v.mean(), lambda v: v[:0]):
        with pytest.raises(OptionError, match="'wrong' must return finite numbers"):
            evaluate("wrong", wrong, values, "x")
