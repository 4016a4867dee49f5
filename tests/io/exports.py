"""Models and data whose exports are tested."""

import math
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

DRAWS, PRIOR_DRAWS = 60, 20


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


def trained(model: Any, encoder: nn.Module, x: Any, family: str = "full") -> avi.AmortizedVI:
    """Return the estimator after one epoch."""
    return avi.AmortizedVI(model, encoder, family).fit(x, epochs=1, progress=False, seed=0)


def _vae() -> tuple[avi.AmortizedVI, Any]:
    pixels = avi.datasets.digits().x_train[:40]
    x = pd.DataFrame(pixels.numpy(), index=[f"digit {i}" for i in range(40)])
    return trained(avi.models.VAE(nn.Linear(3, 64), 3), avi.encoders.MLP(64, [16]), x), x


def _two_sites() -> tuple[avi.AmortizedVI, Any]:
    x = torch.randn(30, 2, generator=torch.Generator().manual_seed(0))
    return trained(two_sites, avi.encoders.MLP(2, [8]), x), x


def _nested() -> tuple[avi.AmortizedVI, Any]:
    generator = torch.Generator().manual_seed(0)
    data = {"y": torch.randn(25, 4, generator=generator), "t": torch.randn(25, generator=generator)}
    return trained(nested, avi.encoders.MLP(5, [8]), data), data


MODELS = {"vae": _vae, "two sites": _two_sites, "nested plate": _nested}
PLATES = {"vae": "data", "two sites": "data", "nested plate": "units"}


def within_error(found: Any, expected: float, std: float, count: int) -> bool:
    """Whether a mean of ``count`` independent numbers is within five standard errors of ``expected``."""
    return bool(abs(float(found) - expected) < 5 * std / math.sqrt(count))
