"""The posterior of global latents: draws, densities, medians and copies, for many guides."""

import copy
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import autoguide

from amortvi.model import Site
from amortvi.posterior.global_latents import GlobalPosterior


def program() -> None:
    pyro.sample("mu", dist.Normal(0.0, 3.0))
    pyro.sample("tau", dist.HalfNormal(1.0))
    with pyro.plate("topics", 4, dim=-2):
        pyro.sample("words", dist.Dirichlet(torch.ones(3)))


def mixed(model: Any) -> autoguide.AutoGuideList:
    guide = autoguide.AutoGuideList(model)
    guide.append(autoguide.AutoNormal(poutine.block(model, hide=["tau"])))
    guide.append(autoguide.AutoDelta(poutine.block(model, expose=["tau"])))
    return guide


GUIDES: dict[str, Any] = {
    "default": None,
    "AutoDelta": autoguide.AutoDelta,
    "AutoDiagonalNormal": autoguide.AutoDiagonalNormal,
    "AutoMultivariateNormal": autoguide.AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": lambda model: autoguide.AutoLowRankMultivariateNormal(model, rank=2),
    "AutoIAFNormal": autoguide.AutoIAFNormal,
    "AutoStructured": autoguide.AutoStructured,
    "mixed": mixed,
}


def make(choice: Any) -> GlobalPosterior:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        trace = poutine.trace(program).get_trace()
        return GlobalPosterior([Site(trace.nodes[name]) for name in ("mu", "tau", "words")], choice)


@pytest.fixture(autouse=True)
def _seeded() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


@pytest.mark.parametrize("name", GUIDES)
def test_draws_at_once_are_those_of_single_draws(name: str) -> None:
    before = list(pyro.get_param_store().keys())
    posterior = make(GUIDES[name])
    drawn, single = posterior.sample(2000), [posterior.draw().values for _ in range(300)]
    shapes = {"mu": (), "tau": (), "words": (4, 1, 3)}
    assert {site: tuple(value.shape[1:]) for site, value in drawn.items()} == shapes
    for site, shape in shapes.items():
        ones = torch.stack([each[site] for each in single]).detach()
        assert ones.shape[1:] == shape
        error = (ones.var(0) / 300 + drawn[site].var(0) / 2000).sqrt()
        assert bool(((ones.mean(0) - drawn[site].mean(0)).abs() <= 5 * error + 1e-5).all())
    medians = posterior.medians()
    assert bool(((drawn["mu"] < medians["mu"]).float().mean() - 0.5).abs() < 0.08) or name == "AutoDelta"
    assert list(pyro.get_param_store().keys()) == before


@pytest.mark.parametrize("name", GUIDES)
def test_copies_are_independent_and_leave_the_original_usable(name: str) -> None:
    posterior = make(GUIDES[name])
    copied = copy.deepcopy(posterior)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.add_(1.0)
    for one, other in zip(posterior.parameters(), copied.parameters(), strict=True):
        assert not torch.equal(one, other)
    posterior.draw()
    copied.draw()
    assert posterior.double().draw().values["mu"].dtype == torch.float64


def test_the_density_of_a_draw() -> None:
    """Its value is that of the guide; its gradient passes through the draw alone."""
    posterior = make(None)
    guide, drawn = posterior.guide, posterior.draw()
    unconstrained = {"mu": drawn.values["mu"], "tau": drawn.values["tau"].log()}
    words = dist.transforms.StickBreakingTransform()
    terms = [dist.Normal(guide.locs.mu, guide.scales.mu).log_prob(unconstrained["mu"])]
    terms.append(dist.LogNormal(guide.locs.tau, guide.scales.tau).log_prob(drawn.values["tau"]))
    inverse = words.inv(drawn.values["words"])
    terms.append(dist.Normal(guide.locs.words, guide.scales.words).log_prob(inverse).sum())
    terms.append(-words.log_abs_det_jacobian(inverse, drawn.values["words"]).sum())
    torch.testing.assert_close(drawn.log_density, sum(terms))
    # d log q(mu) / d loc through mu = loc + scale * eps, at fixed parameters of the density, is -eps / scale.
    (slope,) = torch.autograd.grad(drawn.log_density, guide.locs.mu_unconstrained)
    eps = (drawn.values["mu"] - guide.locs.mu) / guide.scales.mu
    torch.testing.assert_close(slope, (-eps / guide.scales.mu).detach())


@pytest.mark.parametrize(
    "name", ["default", "AutoDiagonalNormal", "AutoMultivariateNormal", "AutoStructured", "AutoIAFNormal"]
)
def test_the_gradient_of_the_entropy(name: str) -> None:
    """The mean gradient of log q is that of the negative entropy, whichever way it is differentiated."""
    posterior = make(GUIDES[name])
    parameters = list(posterior.parameters())

    def gradient(log_density: Any) -> torch.Tensor:
        found = torch.autograd.grad(log_density, parameters, allow_unused=True)
        return torch.cat(
            [
                torch.zeros_like(p).flatten() if g is None else g.flatten()
                for p, g in zip(parameters, found, strict=True)
            ]
        )

    def plain() -> Any:
        trace = poutine.trace(posterior.guide).get_trace()
        return trace.log_prob_sum()

    ours = torch.stack([gradient(posterior.draw().log_density) for _ in range(150)])
    with pyro.get_param_store().scope():
        theirs = torch.stack([gradient(plain()) for _ in range(150)])
    error = ((ours.var(0) + theirs.var(0)) / 150).sqrt()
    assert bool(((ours.mean(0) - theirs.mean(0)).abs() <= 5 * error + 1e-4).all())
