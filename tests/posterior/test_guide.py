"""The guide: sites, densities and parameters as plain Pyro sees them."""

import copy
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam
from torch import nn

from amortvi.encoders import MLP
from amortvi.errors import EncoderError, FamilyError, NotFittedError
from amortvi.families import Diagonal, FullCovariance, LowRank
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
    latents = {name for name in trace.stochastic_nodes if not trace.nodes[name]["infer"].get("is_auxiliary")}
    assert latents == set(case.shapes)
    for site in guide.latents.sites:
        value = site.layout.to_observations(trace.nodes[site.name]["value"])
        assert value.shape == (ROWS, *site.shape)
        assert site.support.check(value).all()
    replayed = poutine.trace(poutine.replay(guide.model, trace)).get_trace(*case.args, **case.kwargs)
    assert torch.isfinite(replayed.log_prob_sum())


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.particles])
def test_plates_around_the_guide(name: str) -> None:
    """Vectorized particles add a batch dimension on the left of every site."""
    case = CASES[name]
    guide = make_guide(case)
    guide.setup(*case.args, **case.kwargs)
    with pyro.plate("particles", 4, dim=-1 - case.nesting):
        values = guide(*case.args, **case.kwargs)
    for site in guide.latents.sites:
        value = values[site.name]
        assert value.shape[-1 - case.nesting - site.layout.event_dim] == 4
        assert not torch.equal(value[0], value[1])


def test_setup_is_repeated_without_effect() -> None:
    guide = AmortizedGuide(PROGRAM, MLP(5, [4]), "full")
    with pytest.raises(NotFittedError):
        _ = guide.latents
    guide.setup(X)
    parameters = [id(parameter) for parameter in guide.parameters()]
    guide.setup(X[:2])
    assert [id(parameter) for parameter in guide.parameters()] == parameters
    assert guide.latents.dim == 3


def test_setup_happens_outside_of_surrounding_handlers() -> None:
    guide = AmortizedGuide(PROGRAM, MLP(5, [4]), "full")
    trace = poutine.trace(guide).get_trace(X)
    assert set(trace.stochastic_nodes) == {"_data_latent", "z"}


def test_parameters_are_those_of_encoder_and_family() -> None:
    encoder, model = MLP(5, [4]), VAE(nn.Linear(3, 5), 3, "normal")
    guide = AmortizedGuide(model, encoder, "full").setup(X)
    assert not {id(p) for p in model.parameters()} & {id(p) for p in guide.parameters()}
    assert {id(p) for p in guide.parameters()} == {id(p) for part in (encoder, guide.family) for p in part.parameters()}
    assert guide.family is guide.network.family


def test_svi_trains_the_guide_without_the_global_store() -> None:
    pyro.clear_param_store()
    guide = AmortizedGuide(PROGRAM, nn.Linear(5, 4), "full").setup(X)
    before = copy.deepcopy(guide.state_dict())
    SVI(PROGRAM, guide, Adam({"lr": 0.05}), Trace_ELBO()).step(X)
    assert all(not torch.equal(before[name], value) for name, value in guide.named_parameters())
    assert not list(pyro.get_param_store().keys())


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


@pytest.mark.parametrize(
    ("family", "label"),
    [("full", "full"), (FullCovariance, "FullCovariance"), (LowRank(rank=2), "LowRank(rank=2)")],
)
def test_families_are_labeled(family: Any, label: str) -> None:
    assert AmortizedGuide(PROGRAM, MLP(5, [4]), family).network.label == label


def test_invalid_parts_are_refused() -> None:
    with pytest.raises(EncoderError, match=r"encoder must be an nn\.Module"):
        AmortizedGuide(PROGRAM, lambda x: x)
    with pytest.raises(FamilyError, match="family must be one of"):
        AmortizedGuide(PROGRAM, MLP(5, [4]), "banded")
    with pytest.raises(FamilyError, match="rank must be at most"):
        AmortizedGuide(PROGRAM, MLP(5, [4]), LowRank(rank=4)).setup(X)
