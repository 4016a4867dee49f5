"""A program owns its parameters, whatever Pyro's global store contains."""

import copy
import pickle
from collections.abc import Iterator

import pyro
import pytest
import torch
from pyro.distributions import constraints
from pyro.nn import PyroModule, PyroParam
from torch import nn

from amortvi.errors import ModelError
from amortvi.model import Program
from tests.any_models.parameters import with_outer_network


@pytest.fixture(autouse=True)
def store() -> Iterator[None]:
    """A global store with a parameter of the same name, which no program may read or change."""
    pyro.clear_param_store()
    pyro.param("scale", torch.tensor(123.0))
    yield
    assert [(name, value.item()) for name, value in pyro.get_param_store().items()] == [("scale", 123.0)]
    pyro.clear_param_store()


def model(x: torch.Tensor) -> torch.Tensor:
    return pyro.param("scale", torch.tensor(2.0), constraint=constraints.positive) * x


X = torch.tensor(3.0)


@pytest.fixture
def program() -> Program:
    """A program that has run, with a scale of one."""
    program = Program(model)
    assert program(X) == 6.0
    with torch.no_grad():
        (parameter,) = program.parameters()
        torch.testing.assert_close(parameter, torch.tensor(2.0).log())  # unconstrained
        parameter.zero_()
    return program


def test_programs_copies_and_pickles_share_nothing(program: Program) -> None:
    other = Program(model)
    assert (program(X), other(X)) == (3.0, 6.0)
    other.load_state_dict(program.state_dict())
    duplicates = [other, program.independent_copy({}), copy.deepcopy(program), pickle.loads(pickle.dumps(program))]
    with torch.no_grad():
        next(program.parameters()).add_(1.0)
    assert [each(X).item() for each in duplicates] == [3.0] * 4


class Scaled(PyroModule):
    def __init__(self) -> None:
        super().__init__()
        self.scale = PyroParam(torch.tensor(2.0), constraint=constraints.positive)
        self.layer = PyroModule[nn.Linear](1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.layer(x.reshape(1, 1)).sum()

    def model(self, x: torch.Tensor) -> torch.Tensor:
        return self(x)


@pytest.mark.parametrize("bound", [False, True], ids=["module", "bound method"])
def test_modules_keep_their_own_parameters(bound: bool) -> None:
    module, other = Scaled(), Program(Scaled())
    program = Program(module.model if bound else module)
    expected = other(X).item()
    assert program(X).item() != expected  # parameters of the same names
    assert other(X).item() == expected
    assert {id(parameter) for parameter in program.parameters()} == {id(parameter) for parameter in module.parameters()}
    assert not program.adopted


def test_outer_modules_are_trained_but_not_copied() -> None:
    program = Program(with_outer_network())
    program(torch.zeros(2, 3))
    assert len(list(program.parameters())) == 4
    with pytest.raises(ModelError, match=r"outer modules with pyro\.module"):
        program.independent_copy({})


def test_parameters_created_after_the_first_call_are_refused() -> None:
    def growing(x: torch.Tensor) -> None:
        pyro.param("always", torch.tensor(0.0))
        if x > 0:
            pyro.param("sometimes", torch.tensor(0.0))

    program = Program(growing)
    program(-X)
    with pytest.raises(ModelError, match="parameter 'sometimes' after its first call"):
        program(X)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_new_tensors_have_the_type_of_the_parameters(dtype: torch.dtype) -> None:
    class Owner(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(2)

    assert Program(Owner(1, 1)).to(dtype)(torch.arange(2)).dtype == dtype
    assert Program(lambda x: torch.zeros(2))(torch.zeros(2, dtype=dtype)).dtype == dtype
    assert torch.get_default_dtype() == torch.float32
