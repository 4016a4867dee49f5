"""A small problem, and fits of several families to it."""

import pyro
import pytest
import torch
from pyro import distributions as dist
from torch import Tensor, nn

import amortvi as avi
from amortvi.comparison import FamilyFits, fit_families

FAMILIES = ["diagonal", "low_rank", "full"]
X = avi.models.LinearGaussian(torch.tensor([[1.0, 0.8], [0.2, 1.0], [0.5, -0.5]]), scale=0.5).simulate(120, seed=0)
UNCHANGED = {"epochs": 1, "lr": 1e-60, "progress": False}
"""The options of a fit whose steps are zero in single precision."""
SHORT = {"epochs": 4, "lr": 0.01, "progress": False}


def make_model() -> avi.models.VAE:
    torch.manual_seed(0)
    return avi.models.VAE(nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)), 2, "normal")


def make_encoder() -> avi.encoders.MLP:
    torch.manual_seed(1)
    return avi.encoders.MLP(3, [8])


@pytest.fixture(scope="session")
def fits() -> FamilyFits:
    return fit_families(make_model(), make_encoder(), FAMILIES, X, seeds=[3, 4], **SHORT)


def with_param(x: Tensor) -> None:
    """A model that is a function with parameters."""
    weight = pyro.param("weight", lambda: torch.randn(2, 3))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ weight, scale).to_event(1), obs=x)
