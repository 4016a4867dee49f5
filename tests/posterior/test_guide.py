"""The guide: sites, densities and parameters as plain Pyro sees them."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch import nn

from amortvi.encoders import MLP
from amortvi.errors import NotFittedError
from amortvi.families import Diagonal
from amortvi.model.library import VAE
from amortvi.posterior import AmortizedGuide
from tests.any_models import CASES, ROWS, Case
from tests.exact import linear_gaussian

every_model = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())

PROGRAM = linear_gaussian(dtype=torch.float32)
X = PROGRAM.simulate(8, seed=0)


def make_guide(case: Case) -> AmortizedGuide:
    torch.manual_seed(0)
    return AmortizedGuide(case.make(), case.make_encoder(), "full").eval()


@every_model
def test_sites_are_those_of_the_model(case: Case) -> None:
    guide = make_guide(case)
    trace = poutine.trace(guide).get_trace(*case.args, **case.kwargs)
    assert set(trace.stochastic_nodes) == {f"_{guide.model.structure.plate}_latent", *case.shapes}
    for site in guide.latents.sites:
        value = site.layout.to_observations(trace.nodes[site.name]["value"])
        assert value.shape == (ROWS, *site.shape)
        assert site.support.check(value).all()
    replayed = poutine.trace(poutine.replay(guide.model, trace)).get_trace(*case.args, **case.kwargs)
    assert torch.isfinite(replayed.log_prob_sum())


def test_setup_is_repeated_without_effect() -> None:
    guide = AmortizedGuide(PROGRAM, MLP(5, [4]), "full")
    with pytest.raises(NotFittedError):
        _ = guide.latents
    guide.setup(X)
    parameters = [id(parameter) for parameter in guide.parameters()]
    guide.setup(X[:2])
    assert [id(parameter) for parameter in guide.parameters()] == parameters
    assert guide.latents.dim == 3


def test_setup_is_hidden_from_surrounding_handlers() -> None:
    trace = poutine.trace(AmortizedGuide(PROGRAM, MLP(5, [4]), "full")).get_trace(X)
    assert set(trace.stochastic_nodes) == {"_data_latent", "z"}


def test_parameters_are_those_of_encoder_and_family() -> None:
    encoder, model = MLP(5, [4]), VAE(nn.Linear(3, 5), 3, "normal")
    guide = AmortizedGuide(model, encoder, "full").setup(X)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in guide.parameters()}
    assert {id(p) for p in guide.parameters()} == {id(p) for part in (encoder, guide.family) for p in part.parameters()}


def test_medians_and_quantiles() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.LogNormal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    x = torch.randn(6)
    guide = AmortizedGuide(model, MLP(1, [4]), Diagonal)
    q = guide.setup(x).get_posterior(x)
    torch.testing.assert_close(guide.median(x)["z"], q.mean.squeeze(-1).exp())
    low, high = guide.quantiles([0.1, 0.9], x)["z"]
    assert (low < guide.median(x)["z"]).all()
    assert (high > guide.median(x)["z"]).all()
    assert not low.requires_grad
