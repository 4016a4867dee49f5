"""Observations of any finite size: a fit and the calls after it give finite numbers, or an error that changes nothing."""

import warnings
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.errors import AmortviError
from tests.bad_input.helpers import assert_same, state_of

NORMAL = torch.randn(20, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
COUNTS = torch.poisson(torch.full((20, 3), 3.0), generator=torch.Generator().manual_seed(0))


class Decoded(nn.Module):
    """Normal data or counts with a latent vector."""

    def __init__(self, *, counts: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.counts = counts

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=self.layer.weight.dtype), 1.0).to_event(1))
            loc = self.layer(z)
            likelihood: Any = dist.Poisson(loc.exp()) if self.counts else dist.Normal(loc, 1.0)
            pyro.sample("x", likelihood.to_event(1), obs=x)


def one(x: Tensor, value: float) -> Tensor:
    """Return data of which one value is extreme."""
    x = x.clone()
    x[3, 1] = value
    return x


DATA: dict[str, Tensor] = {
    "all 1e30": 1e30 * NORMAL,
    "all 1e38": 1e38 * NORMAL.clamp(-3, 3),
    "one 1e30": one(NORMAL, 1e30),
    "one 1e38": one(NORMAL, 1e38),
    "one 3.4e38": one(NORMAL, 3.4e38),
    "tiny": 1e-38 * NORMAL,
    "zeros": torch.zeros_like(NORMAL),
    "constant": torch.full_like(NORMAL, 1e30),
    "a constant column": torch.cat([NORMAL[:, :2], torch.full((20, 1), 7.0, dtype=torch.float64)], dim=1),
    "counts of 2**62": 2.0**62 * COUNTS,
    "one count of 2**62": one(COUNTS, 2.0**62),
    "one integer count of 2**62": one(COUNTS.long(), 2**62),
}
CASES = [
    (name, dtype)
    for name, x in DATA.items()
    for dtype in (torch.float32, torch.float64)
    if x.is_floating_point() or dtype == torch.float32  # in which integers are read
]


def finite_or_refused(call: Any) -> None:
    """A result has no NaN, and no infinity but that of a log density of zero."""
    try:
        found = call()
    except AmortviError:
        return
    values = [np.asarray(value) for value in (found.values() if isinstance(found, dict) else [found])]
    assert all((np.isfinite(value) | (value == -np.inf)).all() for value in values)


@pytest.mark.filterwarnings("ignore::amortvi.errors.AmortviWarning")
@pytest.mark.parametrize("family", ["full", "mixture"])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_extreme_data(name: str, dtype: torch.dtype, family: str) -> None:
    counts = "count" in name
    x = DATA[name].to(dtype) if DATA[name].is_floating_point() else DATA[name]
    ordinary = (COUNTS if counts else NORMAL).to(x.dtype)
    torch.manual_seed(0)
    vi = avi.AmortizedVI(Decoded(counts=counts).to(dtype), avi.encoders.MLP(3, [4]).to(dtype), family)
    options = {"batch_size": None, "seed": 0, "progress": False, "compile": False}
    vi.fit(ordinary, epochs=1, **options)
    before, history = state_of(vi), vi.history
    try:
        vi.fit(x, epochs=2, **options)
    except AmortviError:
        assert_same({**state_of(vi), "run": None}, {**before, "run": None})
        assert vi.history.equals(history)
    assert all(parameter.isfinite().all() for parameter in vi.guide.parameters())
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        posterior = vi.posterior(x)
        for call in (
            lambda: posterior.mean,
            lambda: posterior.std,
            lambda: posterior.quantiles([0.1, 0.9]),
            lambda: {"z": posterior.covariance},
            lambda: posterior.sample(3, seed=0),
            lambda: posterior.log_prob(posterior.sample(3, seed=0)),
            lambda: vi.evaluate(x, particles=3, seed=0).to_dict("list"),
            lambda: vi.predict(x, 3, seed=0),
        ):
            finite_or_refused(call)
