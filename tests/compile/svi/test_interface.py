"""What SVI takes and has: Pyro's arguments and attributes, with errors that name what is wrong."""

import copy

import pyro
import pyro.infer
import pyro.optim
import pytest
import torch
from pyro import distributions as dist
from pyro.infer import Trace_ELBO

import amortvi as avi
from amortvi.errors import AmortviWarning, OptionError
from amortvi.compile.svi.torch_optim import TorchOptim
from tests.compile.svi.problems import data


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    loc = pyro.param("loc", lambda: torch.zeros(2))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))


def sgd():
    return pyro.optim.SGD({"lr": 0.01})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": 3}, "model must be a Pyro model, that is, callable; got int"),
        ({"guide": None}, "guide must be a Pyro guide, that is, callable; got NoneType"),
        ({"optim": 0.1}, "optim must be an optimizer of pyro.optim, .* got float"),
        ({"optim": torch.optim.LBFGS([torch.zeros(1, requires_grad=True)])}, "LBFGS asks for several"),
        ({"loss": Trace_ELBO}, r"write Trace_ELBO\(\)"),
        ({"loss": 3}, "loss must be an ELBO of pyro.infer, .* got int"),
        ({"compile": "yes"}, "compile must be True, False or \"auto\"; got 'yes'"),
        ({"compile": 0}, 'compile must be True, False or "auto"; got 0'),
    ],
)
def test_wrong_arguments(changed, message):
    given = {"model": model, "guide": guide, "optim": sgd(), "loss": Trace_ELBO()} | changed
    with pytest.raises(OptionError, match=message):
        avi.SVI(**given)


def test_attributes_are_pyros():
    optim, loss = sgd(), Trace_ELBO()
    svi = avi.SVI(model, guide, optim, loss)
    assert isinstance(svi, pyro.infer.SVI)
    assert (svi.model, svi.guide, svi.optim, svi.loss) == (model, guide, optim, loss.loss)
    assert type(svi.step(data())) is float
    assert type(svi.evaluate_loss(data())) is float


def test_what_an_optimizer_of_torch_was_not_given():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    svi = avi.SVI(model, guide, optimizer, Trace_ELBO(), compile=False)
    with pytest.warns(AmortviWarning, match="SGD was made without loc, so they stay") as warned:
        svi.step(data())
    svi.step(data())
    assert len(warned) == 1
    assert torch.equal(pyro.param("loc"), torch.zeros(2))
    assert isinstance(svi.optim, TorchOptim)
    assert svi.optim.optimizer is optimizer


@pytest.mark.usefixtures("uncompiled")
def test_a_copy_goes_on_by_itself():
    svi = avi.SVI(model, guide, sgd(), Trace_ELBO(), compile=True)
    for _ in range(3):
        svi.step(data())
    other = copy.deepcopy(svi)
    pyro.clear_param_store()
    for _ in range(3):
        other.step(data())
    assert (svi.compilations, other.compilations) == (1, 2)
    assert other.optim is not svi.optim
    assert not torch.equal(pyro.param("loc"), torch.zeros(2))
