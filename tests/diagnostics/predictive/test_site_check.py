"""The values of observed sites and their statistics."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine

import amortvi as avi
from amortvi.diagnostics.predictive import CheckedStatistic
from amortvi.diagnostics.predictive.site_check import ObservedSite, SiteCheck, read_observed_sites
from amortvi.errors import DataError, ModelError
from tests.any_models import CASES


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


def test_model_without_observed_values_cannot_be_checked():
    case = CASES["a factor alone"]
    vi = avi.AmortizedVI(case.make(), case.make_encoder()).setup(case.x, seed=0)
    with pytest.raises(ModelError, match="nothing to replicate"):
        avi.predictive_check(vi, case.x, draws=3)


def test_replications_must_be_finite():
    check = SiteCheck(ObservedSite("x", torch.zeros(2, 3), discrete=False), {"mean": "mean"})
    with pytest.raises(ModelError, match="draws values of site 'x' that are not finite"):
        check.add(torch.full((1, 2, 3), torch.inf))
