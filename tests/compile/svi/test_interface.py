"""SVI has the arguments and attributes of Pyro's, and its errors name a wrong argument."""

import copy

import pyro
import pyro.optim
import pytest
import torch
from pyro.infer import Trace_ELBO

import amortvi as avi
from amortvi.errors import AmortviWarning, OptionError
from tests.compile.svi.problems import constructed, data, fit_as_pyro, plain, sgd, vae


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": 3}, "^model .* got int"),
        ({"guide": None}, "^guide .* got NoneType"),
        ({"optim": 0.1}, "^optim .* got float"),
        ({"optim": torch.optim.LBFGS([torch.zeros(1, requires_grad=True)])}, "^optim .* LBFGS"),
        ({"loss": Trace_ELBO}, r"^loss .* Trace_ELBO\(\)"),
        ({"loss": 3}, "^loss .* got int"),
        ({"compile": "yes"}, "^compile .* got 'yes'"),
        ({"compile": 0}, "^compile .* got 0"),
    ],
)
def test_wrong_arguments(changed, message):
    given = {**vars(plain()), "optim": sgd(), "loss": Trace_ELBO()} | changed
    with pytest.raises(OptionError, match=message):
        avi.SVI(**given)


def test_attributes_are_those_of_pyro():
    problem, optim, loss = plain(), sgd(), Trace_ELBO()
    svi = avi.SVI(problem.model, problem.guide, optim, loss)
    assert isinstance(svi, pyro.infer.SVI)
    assert (svi.model, svi.guide, svi.optim, svi.loss) == (problem.model, problem.guide, optim, loss.loss)
    assert type(svi.step(data())) is float
    assert type(svi.evaluate_loss(data())) is float


def test_an_optimizer_of_torch_without_a_parameter_of_the_guide_warns_once():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    svi = constructed(optim=lambda: optimizer, compile=False)
    with pytest.warns(AmortviWarning, match="SGD was constructed without loc") as warned:
        svi.step(data())
    svi.step(data())
    assert len(warned) == 1
    assert torch.equal(pyro.param("loc"), torch.zeros(2))
    assert svi.optim.optimizer is optimizer


@pytest.mark.usefixtures("recordings")
def test_a_copy_compiles_its_own_steps():
    svi = constructed()
    for _ in range(3):
        svi.step(data())
    other = copy.deepcopy(svi)
    pyro.clear_param_store()
    for _ in range(3):
        other.step(data())
    assert (svi.compilations, other.compilations) == (1, 2)
    assert other.optim is not svi.optim
    assert not torch.equal(pyro.param("loc"), torch.zeros(2))


def test_with_the_compiler():
    """Other tests run recordings without it, except in the slow tests."""
    assert fit_as_pyro(vae).compilations == 1
