"""Fits that give the same result in one process and in several, to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import amortvi as avi

X = (
    avi.models.LinearGaussian(torch.tensor([[1.0, 0.5], [0.0, 1.0], [0.3, 0.3]]), scale=0.5)
    .simulate(301, seed=0)
    .double()
)
"""301 observations: with minibatches of 60, the last one has a single observation, of which one of two processes has none."""

FITS: dict[str, Callable[[bool], avi.AmortizedVI]] = {}


def fit(function: Callable[[bool], avi.AmortizedVI]) -> Callable[[bool], avi.AmortizedVI]:
    FITS[function.__name__] = function
    return function


def make_vi(
    family: Any = "full", seed: int = 7, dtype: torch.dtype = torch.float64, encoder: nn.Module | None = None
) -> avi.AmortizedVI:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        decoder = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
        vi = avi.AmortizedVI(avi.models.VAE(decoder, 2, "normal"), encoder or avi.encoders.MLP(3, [8]), family)
    return vi.to(dtype=dtype)


def run(vi: avi.AmortizedVI, x: Any, distributed: bool, **options: Any) -> avi.AmortizedVI:
    return vi.fit(
        x, **{"seed": 0, "compile": False, "progress": False, "distributed": distributed, "epochs": 4, **options}
    )


def parameters(vi: avi.AmortizedVI) -> Tensor:
    """Return all parameters of guide and model as one vector."""
    return torch.cat([p.detach().flatten() for p in (*vi.guide.parameters(), *vi.generative.parameters())])


class Rows(Dataset[Tensor]):
    """Observations that are read by position, and which of them have been."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.read = x, []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> Tensor:
        self.read.append(row)
        return self.x[row]


@fit
def unequal_shares(distributed: bool) -> avi.AmortizedVI:
    return run(make_vi(), X, distributed, batch_size=60, validation_data=X[:131])


@fit
def single_precision(distributed: bool) -> avi.AmortizedVI:
    return run(make_vi(dtype=torch.float32), X.float(), distributed, batch_size=75)


@fit
def mixture(distributed: bool) -> avi.AmortizedVI:
    return run(make_vi(avi.families.Mixture(components=2)), X, distributed, batch_size=101, objective="iwae")


@fit
def by_site(distributed: bool) -> avi.AmortizedVI:
    return run(make_vi("student_t"), X, distributed, batch_size=101, objective=avi.objectives.ELBO(particles=3))


@fit
def early_stopping(distributed: bool) -> avi.AmortizedVI:
    return run(make_vi(), X[:50], distributed, epochs=400, lr=0.05, validation_data=X[50:90], patience=5)


@fit
def held_out_fraction(distributed: bool) -> avi.AmortizedVI:
    return run(make_vi(), X, distributed, validation_data=0.2, gradient_clip=0.1)


@fit
def data_set(distributed: bool) -> avi.AmortizedVI:
    return run(make_vi(), Rows(X), distributed, batch_size=60, validation_data=Rows(X[:131]))


@fit
def global_latents(distributed: bool) -> avi.AmortizedVI:
    def model(x: Tensor) -> None:
        mean = pyro.sample("mean", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(mean + z @ x.new_ones(2, 3), 1.0).to_event(1), obs=x)

    torch.manual_seed(3)
    return run(avi.AmortizedVI(model, avi.encoders.MLP(3, [8])).to(dtype=torch.float64), X, distributed, batch_size=60)


@fit
def missing_labels(distributed: bool) -> avi.AmortizedVI:
    labels = (X[:, 0] > 0).long()
    labels[150:] = -1

    class Labelled(pyro.nn.PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, dtype=torch.float64))

        def forward(self, x: Tensor, y: Tensor) -> None:
            with pyro.plate("data", len(x)):
                y = pyro.sample("y", dist.Categorical(x.new_ones(2) / 2), obs=y.clamp(min=0), obs_mask=y >= 0)
                z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
                mean = (z + 2 * y).unsqueeze(-1) * self.weight
                pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    torch.manual_seed(4)
    vi = avi.AmortizedVI(Labelled(), avi.encoders.MLP(3, [8]), labels="y").to(dtype=torch.float64)
    return run(vi, {"x": X, "y": labels}, distributed, batch_size=60)
