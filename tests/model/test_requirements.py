"""Each violation of what amortized inference requires of a model has its own error."""

from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from pyro import poutine
from torch.distributions import constraints

from amortvi.data import Batch
from amortvi.errors import ModelError
from amortvi.model import Program
from amortvi.model.structure import read_structure

ROWS = 6


def model_with(latent: Any, observed: Any = None, plate: Any = None) -> Any:
    """Return a model whose data plate contains what ``latent(x)`` and ``observed(x, z)`` sample."""

    def model(x: torch.Tensor) -> None:
        with plate(x) if plate else pyro.plate("data", x.shape[0]):
            z = latent(x)
            (observed or observe)(x, z)

    return model


def observe(x: torch.Tensor, z: Any = None) -> None:
    pyro.sample("x", dist.Normal(torch.zeros(()), 1.0), obs=x)


def normal(x: torch.Tensor) -> torch.Tensor:
    return pyro.sample("z", dist.Normal(0.0, 1.0))


def loop(x: torch.Tensor) -> None:
    for i in pyro.plate("data", len(x)):
        z = pyro.sample(f"z_{i}", dist.Normal(0.0, 1.0))
        pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i])


def no_plate(x: torch.Tensor) -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def global_latent(x: torch.Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(w, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def latent_outside(x: torch.Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def data_in_another_plate(x: torch.Tensor) -> None:
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.zeros(len(x)))
    with pyro.plate("other", len(x)):
        pyro.sample("x", dist.Normal(0.0, 1.0), obs=x)


def masked_normal(x: torch.Tensor) -> torch.Tensor:
    with poutine.mask(mask=torch.ones(len(x)) > 0):
        return normal(x)


class NoBijection(dist.Normal):  # type: ignore[misc]
    support = constraints.square


VIOLATIONS = {
    "no latent": (model_with(lambda x: None), "no latent site"),
    "discrete latent": (model_with(lambda x: pyro.sample("z", dist.Bernoulli(0.5))), "'z' is discrete"),
    "point": (model_with(lambda x: pyro.sample("z", dist.Delta(torch.tensor(0.0)))), "'z' is a point"),
    "angle": (model_with(lambda x: pyro.sample("z", dist.VonMises(0.0, 1.0))), "'z' is an angle"),
    "masked latent": (model_with(masked_normal), "'z' is masked"),
    "masked distribution": (
        model_with(lambda x: pyro.sample("z", dist.Normal(0.0, 1.0).mask(torch.ones(len(x)) > 0))),
        "'z' is masked",
    ),
    "missing values as latents": (
        model_with(normal, lambda x, z: pyro.sample("x", dist.Normal(z, 1.0), obs=x, obs_mask=x > 0)),
        "'x' has obs_mask=",
    ),
    "no plate": (no_plate, "no plate:"),
    "loop": (loop, "plate 'data' is a Python loop"),
    "size of another": (
        model_with(lambda x: None, plate=lambda x: pyro.plate("data", 99), observed=lambda x, z: normal(x)),
        "no plate has the size of the batch.*'data' of size 99",
    ),
    "random subsample": (
        model_with(normal, plate=lambda x: pyro.plate("data", 99, subsample_size=ROWS), observed=observe),
        "plate 'data' draws its own subsample",
    ),
    "global latent": (global_latent, "latent site 'w' is outside plate 'data'"),
    "latent outside": (latent_outside, "plate 'data' contains no latent"),
    "nothing observed": (model_with(normal, lambda x, z: None), "nothing is observed inside plate 'data'"),
    "data elsewhere": (data_in_another_plate, "observed site 'x' is in plate 'other'"),
    "no bijection": (
        model_with(lambda x: pyro.sample("z", NoBijection(torch.zeros(2, 2), 1.0).to_event(2))),
        "no bijection .* latent site 'z'",
    ),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_violations_are_refused(name: str) -> None:
    model, message = VIOLATIONS[name]
    with pytest.raises(ModelError, match=message):
        read_structure(Program(model), Batch((torch.randn(ROWS),)), ROWS, None)


def test_an_unknown_plate_is_refused() -> None:
    with pytest.raises(ModelError, match=r"plate='rows' is not in the model; its plates are 'data' of size 6"):
        read_structure(Program(model_with(normal)), Batch((torch.randn(ROWS),)), ROWS, "rows")


def test_a_valid_model_is_accepted() -> None:
    assert read_structure(Program(model_with(normal)), Batch((torch.randn(ROWS),)), ROWS, "data").plate == "data"
