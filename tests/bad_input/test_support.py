"""Data outside the support of their likelihood."""

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor

from amortvi.errors import DataError, TrainingDiverged
from tests.bad_input.helpers import FEATURES, decoded, estimator, fit, prior, refused


def poisson(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", prior())
        # Draws from the prior can give any rate; the check must not depend on it.
        pyro.sample("x", dist.Poisson((50 * decoded(z)).exp().clamp(max=1e3)).to_event(1), obs=x)


def counts(value: float) -> Tensor:
    """Return ones, with ``value`` in row 250, beyond the first batch."""
    x = torch.ones(300, FEATURES)
    x[250, 1] = value
    return x


@pytest.mark.parametrize("value", [0.5, -1.0])
def test_data_outside_the_support_of_the_likelihood(value: float) -> None:
    facts = ("observed site 'x' (Poisson)", "IntegerGreaterThan(lower_bound=0)", "1 of the", str(value))
    for x in (counts(value), counts(value)[240:]):
        with refused(DataError, *facts):
            fit(estimator(poisson), x)
    vi = estimator(poisson).setup(counts(1.0), seed=0)
    calls: list[Callable[[Tensor], Any]] = [
        *[lambda x: fit(vi, x), lambda x: fit(vi, counts(1.0), validation_data=x), vi.evaluate, vi.to_arviz, vi.refine],
        lambda x: vi.posterior(x).sample(2, resample=True, seed=0),
    ]
    for call in calls:
        with refused(DataError, *facts, vi=vi):
            call(counts(value))


def test_a_support_that_depends_on_latents_is_not_checked() -> None:
    def model(x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            width = 8 + 50 * torch.sigmoid(pyro.sample("z", prior()).sum(-1))
            pyro.sample("x", dist.Uniform(-width, width), obs=x[:, 0])

    x = torch.zeros(300, FEATURES)
    fit(estimator(model), x)
    x[250] = 57.5  # possible for some latents, so the data are not wrong, but the loss is infinite
    with refused(TrainingDiverged, "observed site 'x' is not finite for 1 of"):
        fit(estimator(model), x, epochs=3)
