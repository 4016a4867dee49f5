"""Small fits, and the comparison of what two fits have learned."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import amortvi as avi

X = 0.5 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
TOLERANCE = 1e-9
"""In double precision rounding errors are 1e-16. An adaptive optimizer divides a gradient by its size, so that the relative error
of an update exceeds 1e-7 only where a gradient is nine orders of magnitude smaller than its terms."""


class Linear(nn.Module):
    """A linear map of two latents with normal noise; few parameters, because recording takes time for each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, 0.2, 0.5], [0.8, 1.0, -0.5]]))

    def forward(self, x: Tensor) -> None:
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.weight, 1.0).to_event(1), obs=x)


def reads_a_value(x: Tensor) -> None:
    """A model that cannot be recorded."""
    weight = pyro.param("weight", torch.ones(3))
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        sign = 1.0 if z.isfinite().all() else -1.0
        pyro.sample("x", dist.Normal(sign * z.sum(-1, keepdim=True) * weight, 1.0).to_event(1), obs=x)


def estimator(model: Any = None, family: type[avi.families.GaussianFamily] = avi.families.Diagonal) -> avi.AmortizedVI:
    """Return an estimator with dropout whose encoder returns the parameters of the family itself."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parameters = family().setup(2, context_features=1).num_parameters
        encoder = nn.Sequential(nn.Dropout(0.2), nn.Linear(3, parameters))
        return avi.AmortizedVI(Linear() if model is None else model, encoder, family(head=False))


def fitted(vi: avi.AmortizedVI | None = None, **options: Any) -> avi.AmortizedVI:
    """Fit in double precision, all observations in each step.

    The first step is eager, and the steps 2, 3, 5 and 9 are audits, which keep the result of the eager step.
    """
    options = {
        "epochs": 12,
        "batch_size": len(X),
        "lr": 0.01,
        "dtype": torch.float64,
        "compile": True,
        "lr_schedule": "constant",
    } | options
    return (vi or estimator()).fit(X.to(options["dtype"]), seed=0, progress=False, **options)


def learned(vi: avi.AmortizedVI) -> dict[str, Tensor]:
    """Return a copy of everything that a fit changes: parameters, running statistics, history."""
    tensors = {
        f"{part}.{name}": tensor.detach().clone().double()
        for part, module in (("model", vi.generative.program), ("guide", vi.guide.network))
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    return {**tensors, "history": torch.tensor(vi.history.drop(columns="seconds").to_numpy()).double()}


def assert_equal(first: avi.AmortizedVI, second: avi.AmortizedVI, tolerance: float = 0.0) -> None:
    """Assert that two fits learned the same, up to a relative error."""
    mine, reference = learned(first), learned(second)
    assert mine.keys() == reference.keys()
    for name, expected in reference.items():
        atol = tolerance * max(1.0, float(expected.abs().max()))
        torch.testing.assert_close(mine[name], expected, rtol=0, atol=atol, equal_nan=True, msg=name)


def check_as_eager(
    make: Callable[[], avi.AmortizedVI] = estimator, tolerance: float = TOLERANCE, **options: Any
) -> avi.AmortizedVI:
    """Fit with compiled steps, check that eager steps learn the same, and return the compiled fit."""
    compiled = fitted(make(), **options)
    assert_equal(compiled, fitted(make(), **{**options, "compile": False}), tolerance)
    return compiled
