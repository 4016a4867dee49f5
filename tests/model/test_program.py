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
def store() -> Iterator[pyro.params.param_store.ParamStoreDict]:
    """A global store with a parameter of the same name, which no program may read or change."""
    pyro.clear_param_store()
    pyro.param("scale", torch.tensor(123.0))
    yield pyro.get_param_store()
    assert float(pyro.param("scale").detach()) == 123.0
    pyro.clear_param_store()


def model(x: torch.Tensor) -> torch.Tensor:
    return pyro.param("scale", torch.tensor(2.0), constraint=constraints.positive) * x


X = torch.tensor(3.0)


def test_parameters_of_a_function_are_adopted() -> None:
    program = Program(model)
    assert program(X) == 6.0
    (parameter,) = program.parameters()
    torch.testing.assert_close(parameter, torch.tensor(2.0).log())  # unconstrained
    with torch.no_grad():
        parameter.add_(torch.tensor(2.0).log())
    torch.testing.assert_close(program(X), torch.tensor(12.0))


def test_two_programs_of_one_function_share_nothing() -> None:
    one, other = Program(model), Program(model)
    one(X), other(X)
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert one(X) == 3.0
    assert other(X) == 6.0


def test_state_dict_copies_and_pickles_preserve_the_parameters() -> None:
    program = Program(model)
    program(X)
    with torch.no_grad():
        next(program.parameters()).zero_()
    other = Program(model)
    other(X)
    other.load_state_dict(program.state_dict())
    for each in (other, copy.deepcopy(program), pickle.loads(pickle.dumps(program))):
        assert each(X) == 3.0
        assert next(each.parameters()) is not next(program.parameters())


def test_modules_keep_their_own_parameters() -> None:
    class Decoder(PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.scale = PyroParam(torch.tensor(2.0), constraint=constraints.positive)
            self.layer = PyroModule[nn.Linear](1, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scale * self.layer(x.reshape(1, 1)).sum()

    decoder = Decoder()
    program = Program(decoder)
    program(X)
    assert {id(parameter) for parameter in program.parameters()} == {
        id(parameter) for parameter in decoder.parameters()
    }
    assert not program.adopted


def test_the_module_of_a_bound_method_is_registered() -> None:
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(2.0))

        def model(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * x

    owner = Owner()
    assert [id(parameter) for parameter in Program(owner.model).parameters()] == [id(owner.weight)]


def test_outer_modules_are_trained_but_not_copied() -> None:
    program = Program(with_outer_network())
    program(torch.zeros(2, 3))
    assert len(list(program.parameters())) == 4
    with pytest.raises(ModelError, match=r"outer modules with pyro\.module"):
        program.independent_copy({})


def test_independent_copies_share_nothing() -> None:
    program = Program(model)
    program(X)
    duplicate = program.independent_copy({})
    with torch.no_grad():
        next(program.parameters()).zero_()
    assert duplicate(X) == 6.0


def test_parameters_created_after_the_first_call_are_refused() -> None:
    def growing(x: torch.Tensor) -> None:
        pyro.param("always", torch.tensor(0.0))
        if x > 0:
            pyro.param("sometimes", torch.tensor(0.0))

    program = Program(growing)
    program(-X)
    with pytest.raises(ModelError, match="parameter 'sometimes' after its first call"):
        program(X)


def test_the_store_is_restored_after_an_error() -> None:
    def failing(x: torch.Tensor) -> None:
        pyro.param("own", torch.tensor(0.0))
        raise KeyError

    with pytest.raises(KeyError):
        Program(failing)(X)
    assert list(pyro.get_param_store().keys()) == ["scale"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_new_tensors_have_the_type_of_the_parameters(dtype: torch.dtype) -> None:
    class Owner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros(2)

    assert Program(Owner()).to(dtype)(torch.arange(2)).dtype == dtype
    assert Program(lambda x: torch.zeros(2))(torch.zeros(2, dtype=dtype)).dtype == dtype
    assert torch.get_default_dtype() == torch.float32


def test_models_must_be_callable() -> None:
    with pytest.raises(ModelError, match=r"model must be .* callable; got int"):
        Program(3)  # type: ignore[arg-type]
