"""Models and data whose exports are tested."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from tests.exact import linear_gaussian

EXACT = linear_gaussian()
X = EXACT.simulate(30, seed=1)
EVIDENCE = EXACT.log_evidence(X).numpy()

CHAINS, DRAWS, PRIOR_DRAWS = 4, 15, 20


def two_sites(x: Tensor) -> None:
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
        pyro.deterministic("precision", scale**-2)
        pyro.sample("x", dist.Normal(z, scale.unsqueeze(-1)).to_event(1), obs=x)


def nested(y: Tensor, t: Tensor) -> None:
    with pyro.plate("units", y.shape[0], dim=-2):
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
        with pyro.plate("times", y.shape[1], dim=-1):
            drift = pyro.sample("drift", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            mean = pyro.deterministic("mean", level + drift.sum(-1) + t.unsqueeze(-1), event_dim=0)
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def digits() -> pd.DataFrame:
    return pd.DataFrame(avi.datasets.digits().x_train[:40].numpy(), index=[f"digit {i}" for i in range(40)])


MODELS: dict[str, Callable[[], tuple[Any, int, Any]]] = {
    "vae": lambda: (avi.models.VAE(nn.Linear(3, 64), 3), 64, digits()),
    "two sites": lambda: (two_sites, 2, normal(30, 2)),
    "nested plate": lambda: (nested, 5, {"y": normal(25, 4), "t": normal(25)}),
}
"""Each model with the number of its features and its data."""
PLATES = {"vae": "data", "two sites": "data", "nested plate": "units"}
