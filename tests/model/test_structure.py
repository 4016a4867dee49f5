"""The structure of a model, read from one run on an example."""

from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import nn

from amortvi.data import Batch
from amortvi.model import ModelStructure, Program
from amortvi.model.structure import read_structure
from tests.any_models import CASES, FULL, ROWS, standard


def read(model: Any, x: torch.Tensor) -> ModelStructure:
    return read_structure(Program(model), Batch((x,)), x.shape[0], None)


NOT_STANDARD = """a learned prior, many supports, many mixtures, pseudo-inputs, a Cholesky factor, one latent on
another, a chain, a plate on the right, a plate on the left, plates on both sides, subsampled in parts, scales,
covariates, keywords""".replace("\n", " ")


@pytest.mark.parametrize("name", CASES)
def test_any_model(name: str) -> None:
    case = CASES[name]
    structure = read_structure(Program(case.make()), Batch(case.args, case.kwargs), ROWS, None)
    assert structure.plate == "data"
    in_second = {"a plate on the right", "plates on both sides", "subsampled in parts", "a mask"}
    assert structure.dim == (-2 if name in in_second else -1)
    assert {site.name: tuple(site.shape) for site in structure.latents.sites} == case.shapes
    assert structure.full_size == (FULL if case.scale > 1 else None)
    assert all(site.layout.dim == structure.dim for site in structure.latents.sites)
    assert structure.standard_normal_prior is (name not in NOT_STANDARD.split(", "))


def test_nested_plates_are_listed_from_the_outermost() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", x.shape[0], dim=-2), pyro.plate("outer", 2, dim=-1), pyro.plate("inner", 3, dim=-3):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x.unsqueeze(0).expand(3, *x.shape))

    (site,) = read(model, torch.randn(6, 2)).latents.sites
    assert [plate.name for plate in site.layout.nested] == ["outer", "inner"]
    assert site.shape == (2, 3)


@pytest.mark.parametrize(
    ("prior", "expected"),
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
def test_fixed_standard_normal_priors_are_recognized(prior: Any, expected: bool) -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", prior(x))
            pyro.sample("x", dist.Normal(z.reshape(len(x), -1)[:, :1], 1.0).to_event(1), obs=x)

    assert read(model, torch.randn(6, 2)).standard_normal_prior is expected
