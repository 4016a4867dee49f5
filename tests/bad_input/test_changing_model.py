"""Models that support the first batch, but not every batch."""

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from amortvi.errors import ModelError
from tests.bad_input.helpers import ROWS, data, estimator, fit, observe, prior, refused


def sixteen(x: Tensor) -> None:
    with pyro.plate("data", 16):
        observe(pyro.sample("z", prior()), x)


def test_a_plate_of_fixed_size_that_fits_the_first_batch() -> None:
    facts = ("plate 'data' has size 16", "batches of any size", "x.shape[0]", "subsample=x")
    with refused(ModelError, *facts):
        fit(estimator(sixteen), data(), batch_size=16)  # the last batch has 8 observations
    vi = fit(estimator(sixteen), data(16))
    for call in (vi.evaluate, vi.predict, vi.to_arviz):
        with refused(ModelError, *facts, vi=vi):
            call(data(16), seed=0)


def changing(small: Callable[..., Any], large: Callable[..., Any]) -> Callable[[Tensor], None]:
    """Return a model with one likelihood for small and another for large values."""

    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            (large if x.mean() > 5 else small)(pyro.sample("z", prior()), x)

    return model


def two_latents(z: Tensor, x: Tensor) -> None:
    observe(z + pyro.sample("w", prior()), x)


@pytest.mark.parametrize(
    ("model", "facts"),
    [
        (changing(observe, two_latents), ("latent site 'w' was not in the model", "poutine.mask")),
        (changing(two_latents, observe), ("did not reach its latent sites ['w']", "poutine.mask")),
        (changing(observe, lambda z, x: None), ("observed nothing in plate 'data'", "poutine.mask")),
        (changing(observe, lambda z, x: {}["missing"]), ("the model failed on x of shape", "KeyError")),
    ],
    ids=["more latents", "fewer latents", "unobserved", "fails"],
)
def test_models_that_change_with_the_data(model: Callable[[Tensor], None], facts: tuple[str, ...]) -> None:
    vi = fit(estimator(model), data())
    large = data() + 100
    # The first step of the epoch succeeds and must be undone.
    loader = DataLoader(TensorDataset(torch.cat([data(), large])), batch_size=ROWS)
    with refused(ModelError, *facts, vi=vi):
        fit(vi, loader)
    with refused(ModelError, *facts, vi=vi):
        vi.evaluate(large, particles=2, seed=0)
    fit(vi, data())
    assert len(vi.history) == 2
