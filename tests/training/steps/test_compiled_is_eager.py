"""The compiled step gives the numbers of the eager one: same noise, same parameters after twenty steps, up to rounding."""

from collections.abc import Iterator
from typing import Any

import pyro
import pytest
import torch
from torch.utils._pytree import tree_map

import amortvi as avi
from tests.any_models import CASES, Case


@pytest.fixture(autouse=True)
def empty_param_store() -> Iterator[None]:
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def fitted(case: Case, compile: bool, **options: Any) -> avi.AmortizedVI:
    """After at least twenty steps, in batches of which the last of an epoch is smaller."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vi = avi.AmortizedVI(case.make(), case.make_encoder(), options.pop("family", "full"))
    options = {"epochs": 10, "batch_size": 7, "lr": 0.01, "dtype": torch.float64, "seed": 0, **options}
    x = tree_map(lambda value: value.to(options["dtype"]) if value.is_floating_point() else value, case.x)
    return vi.fit(x, compile=compile, progress=False, **{"validation_data": x, **options})


def numbers(vi: avi.AmortizedVI) -> dict[str, torch.Tensor]:
    """Everything that a fit changes: parameters, running statistics, history."""
    found = {
        f"{part}.{name}": tensor.detach().double()
        for part, module in (("model", vi._generative), ("guide", vi.guide))
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    history = vi.history.drop(columns="seconds").to_numpy()
    return {**found, "history": torch.tensor(history, dtype=torch.float64)}


def assert_equal(compiled: avi.AmortizedVI, eager: avi.AmortizedVI, tolerance: float) -> None:
    mine, reference = numbers(compiled), numbers(eager)
    assert mine.keys() == reference.keys()
    for name, expected in reference.items():
        largest = float((mine[name] - expected).abs().max()) if expected.numel() else 0.0
        assert largest <= tolerance * max(1.0, float(expected.abs().max())), f"{name} differs by {largest}"


# In double precision rounding is 1e-16, and Adam multiplies it by the inverse of gradients that may be small: what is allowed
# is a hundred-thousandth of the largest update, 0.01.
TOLERANCE = 1e-7

# Networks that belong to no module are not converted by fit(dtype=...): single precision, updates of 0.01, rounding 1e-7.
SINGLE = {"a network outside": 1e-4}


def both(name: str, **options: Any) -> tuple[avi.AmortizedVI, avi.AmortizedVI]:
    if name in SINGLE:
        options["dtype"] = torch.float32
    return fitted(CASES[name], True, **options), fitted(CASES[name], False, **options)


RECORDED = (
    "parameters of a function",
    "a network outside",
    "the method of a module",
    "many supports",
    "one latent on another",
    "plates on both sides",
    "subsampled in parts",
    "a mask",
    "weights",
    "keywords",
    "normalisation and dropout",
    "convolutions",
)
"""What is recorded each time: a model of each kind."""


def some_of_them(chosen: tuple[str, ...]) -> list[Any]:
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize("name", some_of_them(RECORDED))
@pytest.mark.usefixtures("not_compiled")
def test_recorded_is_eager(name: str) -> None:
    assert_equal(*both(name, validation_data=None), SINGLE.get(name, TOLERANCE))


COMPILED = (
    "a PyroModule",
    "plates on both sides",
    "subsampled in parts",
    "normalisation and dropout",
)
"""What is compiled each time; the rest takes minutes, and differs in what is recorded more than in what is compiled."""


@pytest.mark.parametrize("name", some_of_them(COMPILED))
def test_compiled_is_eager(name: str) -> None:
    one_shape = {"epochs": 20, "batch_size": None, "validation_data": None}
    assert_equal(*both(name, **one_shape), SINGLE.get(name, TOLERANCE))
