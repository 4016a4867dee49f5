"""The structure of a model, read from one run on an example."""

from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

from amortvi.data import Batch
from amortvi.errors import DataError, ModelError
from amortvi.model import ModelStructure, Program
from amortvi.model.structure import read_structure
from tests.any_models import CASES, FULL, ROWS, Case, standard

every_model = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())

X = torch.randn(6, 2)


def structure_of(case: Case) -> ModelStructure:
    return read_structure(Program(case.make()), Batch(case.args, case.kwargs), ROWS, None)


def read(model: Any, x: torch.Tensor = X, plate: str | None = None) -> ModelStructure:
    return read_structure(Program(model), Batch((x,)), x.shape[0], plate)


@every_model
def test_any_model(case: Case) -> None:
    structure = structure_of(case)
    assert structure.plate == "data"
    assert {site.name: tuple(site.shape) for site in structure.latents.sites} == case.shapes
    assert structure.full_size == (FULL if case.scale > 1 else None)
    assert all(site.layout.dim == structure.dim for site in structure.latents.sites)


def test_dimension_of_the_data_plate() -> None:
    assert structure_of(CASES["a module"]).dim == -1
    assert structure_of(CASES["a plate on the right"]).dim == -2


def test_nested_plates_are_listed_from_the_outermost() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("outer", 2, dim=-1), pyro.plate("inner", 3, dim=-3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.unsqueeze(0).expand(3, *x.shape))

    (site,) = read(model).latents.sites
    assert [plate.name for plate in site.layout.nested] == ["outer", "inner"]
    assert site.shape == (2, 3)


def prior(distribution: Any) -> Any:
    """Return a model whose latent has the prior ``distribution(x)``."""

    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", distribution(x))
            pyro.sample("x", dist.Normal(z.reshape(len(x), -1)[:, :1], 1.0).to_event(1), obs=x)

    return model


@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (lambda x: standard(), True),
        (lambda x: dist.Normal(0.0, 1.0), True),
        (lambda x: dist.Normal(torch.zeros(2, 3), 1.0).to_event(2), True),
        (lambda x: dist.Normal(x.new_zeros(x.shape), 1.0).to_event(1), True),
        (lambda x: dist.Normal(0.1, 1.0), False),
        (lambda x: dist.Normal(0.0, 2.0), False),
        (lambda x: dist.Laplace(0.0, 1.0), False),
        (lambda x: dist.Normal(0 * x[:, 0], 1.0), False),  # depends on the data, though not on the example
        (lambda x: dist.Normal(nn.Parameter(torch.zeros(())), 1.0), False),
    ],
)
def test_fixed_standard_normal_priors_are_recognized(distribution: Any, expected: bool) -> None:
    assert read(prior(distribution)).standard_normal_prior is expected


def test_the_data_plate_can_be_named() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("first", x.shape[0], dim=-1), pyro.plate("second", x.shape[1], dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.mT)

    square = torch.randn(4, 4)
    with pytest.raises(ModelError, match=r"several plates of batch size 4 contain latents: .*plate="):
        read(model, square)
    assert read(model, square, plate="second").plate == "second"
    assert read(model).plate == "first"


def test_repeated_names_are_refused() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", standard(), obs=x)

    with pytest.raises(ModelError, match="several sites named 'z'"):
        read(model)


def test_errors_of_the_model_are_reported_with_the_shapes() -> None:
    def model(x: torch.Tensor) -> None:
        raise KeyError("missing")

    with pytest.raises(ModelError, match=r"the model failed on x of shape \(6, 2\) .*KeyError: 'missing'") as caught:
        read(model)
    assert isinstance(caught.value.__cause__, KeyError)


def test_data_outside_the_support_are_refused() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Poisson(z.exp().unsqueeze(-1).expand(x.shape)).to_event(1), obs=x)

    with pytest.raises(DataError, match=r"observed site 'x' \(Poisson\) has support"):
        read(model)


def test_reading_leaves_the_model_and_the_store_untouched() -> None:
    model = prior(lambda x: standard())
    pyro.clear_param_store()
    read(model)
    assert not list(pyro.get_param_store().keys())
