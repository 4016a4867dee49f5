"""A small problem for tests of training, and what to compare after a fit."""

import torch
from torch import Tensor, nn

import amortvi as avi

X = avi.models.LinearGaussian(torch.tensor([[1.0, 0.5], [0.0, 1.0], [0.3, 0.3]]), scale=0.5).simulate(300, seed=0)
"""300 observations: three steps per epoch with the default batch size."""


def make_vi(family: str = "full", dropout: float = 0.0) -> avi.AmortizedVI:
    """Return an estimator that has the same initial parameters at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        decoder = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3))
        encoder = avi.encoders.MLP(3, [8], dropout=dropout)
    return avi.AmortizedVI(avi.models.VAE(decoder, 2, "normal"), encoder, family)


def parameters(vi: avi.AmortizedVI) -> Tensor:
    """Return all parameters of guide and model as one vector."""
    return torch.cat([p.detach().flatten() for p in (*vi.guide.parameters(), *vi.generative.parameters())])
