"""Predictive checks flag planted misfits and pass right models; their p-values have the law that they must have."""

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
from amortvi import _chunks
from amortvi.diagnostics.predictive.site_check import CheckedStatistic
from amortvi.errors import DataError, ModelError, OptionError
from tests.any_models import CASES
from tests.exact import held, linear_gaussian, solved

MODEL = linear_gaussian()
X = MODEL.simulate(300, seed=1)


def with_scale(factor: float) -> avi.models.LinearGaussian:
    """The model that made the data but for the scale of its noise."""
    return avi.models.LinearGaussian(MODEL.W, scale=float(MODEL.scale) * factor, bias=MODEL.bias)


def p_values(check) -> dict[str, float]:
    return {statistic.name: statistic.p_value for statistic in check.statistics}


def test_a_right_model_passes():
    for latents in ("posterior", "prior"):
        check = avi.predictive_check(solved(MODEL), X, latents=latents, seed=0)
        assert check.misfits() == []
        assert "0 of 4 statistics" in str(check)


@pytest.mark.parametrize("latents", ["posterior", "prior"])
@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_a_wrong_scale_of_the_noise_is_flagged(factor, latents):
    check = avi.predictive_check(solved(with_scale(factor)), X, latents=latents, seed=0)
    assert "std" in [statistic.name for statistic in check.misfits()]
    # Too little noise leaves the replicated data narrower than the data: too much of T in the data, p near 0.
    assert p_values(check)["std"] == pytest.approx(0.5 / 101 if factor < 1 else 1 - 0.5 / 101)
    assert "x std" in str(check)


def counts(x):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(0.0, 0.05))
        pyro.sample("x", dist.Poisson(3 * z.exp()), obs=x)


@pytest.mark.parametrize(("dispersed", "flagged"), [(False, False), (True, True)])
def test_a_poisson_that_is_too_narrow_for_its_counts_is_flagged(dispersed, flagged):
    generator = torch.Generator().manual_seed(0)
    rate = torch.full((400,), 3.0)
    if dispersed:  # gamma-distributed rates: a negative binomial of variance 3 + 9 / 2
        rate = torch._standard_gamma(torch.full((400,), 2.0), generator=generator) * 1.5
    x = torch.poisson(rate, generator=generator)
    vi = held(counts, _Prior(), avi.families.Diagonal, x)
    check = avi.predictive_check(vi, x, latents="prior", seed=0)
    assert list(p_values(check)) == ["mean", "std", "min", "max", "zeros"]
    found = {statistic.name for statistic in check.misfits()}
    assert ({"std", "zeros", "max"} <= found) if flagged else not found


class _Prior(torch.nn.Module):
    """Gives the parameters of ``N(0, 0.05^2)`` for each observation."""

    def __init__(self) -> None:
        super().__init__()
        self.parameters_ = torch.nn.Parameter(torch.tensor([0.0, math.log(0.05)]))

    def forward(self, x):
        return self.parameters_.expand(x.shape[0], 2)


def test_mixed_p_values_of_new_data_are_uniform_and_posterior_ones_are_not():
    """Of a right model: latents from the prior predict new data, those from the posterior have seen them."""
    vi = solved(MODEL)
    found = {"prior": [], "posterior": []}
    for seed in range(60):
        x = MODEL.simulate(30, seed=seed)
        for latents, values in found.items():
            check = avi.predictive_check(vi, x, ["mean"], draws=49, latents=latents, seed=seed)
            values.append(p_values(check)["mean"])
    assert stats.kstest(found["prior"], "uniform").pvalue > 0.01
    # Var p = 1/12 if uniform, with a relative standard error of about sqrt(0.8 / 60) = 0.12.
    assert np.var(found["posterior"]) < 0.5 / 12
    assert np.var(found["prior"]) > 0.6 / 12


def test_p_values_of_each_observation():
    check = avi.predictive_check(solved(MODEL), X, draws=99, latents="prior", seed=0)
    assert sorted(check.of_observations) == ["x max", "x mean", "x min", "x std"]
    for values in check.of_observations.values():
        assert stats.kstest(values, "uniform").pvalue > 0.001
    frame = check.observations_frame()
    assert frame.shape == (300, 4)


def test_an_outlier_stands_out():
    x = X.clone()
    x[7] += 15
    check = avi.predictive_check(solved(MODEL), x, draws=199, latents="prior", seed=0)
    assert check.of_observations["x mean"][7] == pytest.approx(0.5 / 200)


def test_a_single_number_has_its_own_value_only():
    x = torch.poisson(torch.full((20,), 3.0), generator=torch.Generator().manual_seed(0))
    check = avi.predictive_check(held(counts, _Prior(), avi.families.Diagonal, x), x, draws=10, seed=0)
    assert list(check.of_observations) == ["x mean"]


@pytest.mark.parametrize(
    ("replicated", "p"), [([1.0, 2.0, 4.0], 1.5 / 4), ([3.0, 3.0, 3.0], 2 / 4), ([4.0, 4.0, 5.0], 3.5 / 4)]
)
def test_ties_count_by_half(replicated, p):
    statistic = CheckedStatistic("x", "mean", 3.0, torch.tensor(replicated))
    assert statistic.p_value == pytest.approx(p)
    assert statistic.two_sided == pytest.approx(2 * min(p, 1 - p))


def test_callables_see_whole_data_sets_and_may_return_several_numbers():
    seen = []

    def feature_means(values):
        seen.append(tuple(values.shape))
        return values.mean(0)

    check = avi.predictive_check(solved(MODEL), X, {"feature means": feature_means}, draws=50, seed=0)
    assert set(seen) == {(300, 5)}
    assert [statistic.name for statistic in check.statistics] == [f"feature means[{i}]" for i in range(5)]
    torch.testing.assert_close(torch.tensor([s.observed for s in check.statistics], dtype=X.dtype), X.mean(0))
    assert not check.of_observations
    # Replications of E[W z + b] under the posterior of x: their means are those of the reconstructions.
    expected = (MODEL.posterior(X).mean @ MODEL.W.mT + MODEL.bias).mean(0)
    scale = (MODEL.W @ torch.linalg.inv(MODEL.precision()) @ MODEL.W.mT).diagonal() + MODEL.scale**2
    for position, statistic in enumerate(check.statistics):
        error = float(statistic.replicated.mean() - expected[position])
        assert abs(error) < 5 * math.sqrt(float(scale[position]) / (300 * 50))


def test_frame(monkeypatch):
    frame = pd.DataFrame(X.numpy(), index=[f"row {i}" for i in range(300)])
    check = avi.predictive_check(solved(MODEL), frame, draws=20, seed=0)
    table = check.to_frame()
    assert list(table.index) == [("x", name) for name in ("mean", "std", "min", "max")]
    np.testing.assert_allclose(table["observed"], [X.mean(), X.std(correction=0), X.min(), X.max()], rtol=1e-6)
    assert list(check.observations_frame().index[:2]) == ["row 0", "row 1"]


def masked(x, seen):
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with poutine.mask(mask=seen.bool()):
            pyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)


def test_masked_values_do_not_count():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    seen = torch.ones(50)
    seen[:10], x[:10] = 0, 1e6
    vi = avi.AmortizedVI(masked, avi.encoders.MLP(2, []), freeze_model=True)
    vi.fit((x, seen), epochs=1, lr=1e-30, progress=False, seed=0)
    check = avi.predictive_check(vi, (x, seen), draws=20, seed=0)
    assert {s.name: s.observed for s in check.statistics}["max"] == pytest.approx(float(x[10:].max()))
    assert check.of_observations["x mean"].isnan().tolist() == [True] * 10 + [False] * 40
    with pytest.raises(DataError, match="no value at site 'x'"):
        avi.predictive_check(vi, (x[:10], seen[:10]), draws=20)


@pytest.mark.parametrize("latents", ["posterior", "prior"])
def test_any_model(latents):
    for name, case in CASES.items():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(case.make(), case.make_encoder(), "full").fit(case.x, epochs=1, progress=False, seed=0)
        if name == "a factor alone":
            with pytest.raises(ModelError, match="nothing to replicate"):
                avi.predictive_check(vi, case.x, draws=3)
            continue
        check = avi.predictive_check(vi, case.x, draws=5, latents=latents, seed=0)
        sites = {statistic.site for statistic in check.statistics}
        assert sites == set(vi.predict(case.x, draws=1)) - {"loc", "norm"}, name
        assert np.isfinite(check.to_frame().to_numpy()).all()


def test_a_seed_repeats_and_pieces_are_put_together(monkeypatch):
    vi = solved(MODEL)
    state = torch.get_rng_state()
    first, second = (avi.predictive_check(vi, X, draws=20, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert p_values(first) == p_values(second)
    monkeypatch.setattr(_chunks, "NUMBERS_AT_ONCE", 3 * 1500)  # three replicated data sets at once
    for latents in ("posterior", "prior"):
        pieces = avi.predictive_check(vi, X, draws=20, latents=latents, seed=3)
        assert [statistic.observed for statistic in pieces.statistics] == [s.observed for s in first.statistics]
        assert all(len(statistic.replicated) == 20 for statistic in pieces.statistics)
        assert pieces.misfits(0.01) == []


def test_draws_that_are_not_finite_are_an_error():
    def explosive(x):
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.LogNormal(1e4 + 0 * z, 1.0), obs=x)

    x = torch.full((5,), 2.0)
    vi = held(explosive, _Prior(), avi.families.Diagonal, x)
    with pytest.raises(ModelError, match="draws values of site 'x' that are not finite"):
        avi.predictive_check(vi, x, draws=2)


def test_bad_input():
    vi = solved(MODEL)
    with pytest.raises(OptionError, match=r"latents must be one of \['posterior', 'prior'\]; got 'both'"):
        avi.predictive_check(vi, X, latents="both")
    with pytest.raises(OptionError, match="draws must be a positive integer"):
        avi.predictive_check(vi, X, draws=0)
    with pytest.raises(OptionError, match="statistics must be among"):
        avi.predictive_check(vi, X, ["median"])
    with pytest.raises(OptionError, match="as many numbers for replicated values"):
        avi.predictive_check(vi, X, {"growing": iter_lengths()}, draws=2)
    with pytest.raises(OptionError, match="level"):
        avi.predictive_check(vi, X, draws=2).misfits(0)


def iter_lengths():
    """A statistic that returns one number more at each call."""
    calls = []

    def statistic(values):
        calls.append(1)
        return torch.ones(len(calls))

    return statistic
