"""A small estimator and its data."""

from typing import Any

import torch
from torch import nn

import amortvi as avi
from tests.exact import linear_gaussian

MODEL = linear_gaussian(2, 3, dtype=torch.float32)
X = MODEL.simulate(20, seed=0)


def make_vi(family: Any = "full", encoder: nn.Module | None = None, **options: Any) -> avi.AmortizedVI:
    """Return an estimator that has seen no data, with the same encoder at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = avi.encoders.MLP(3, [4]) if encoder is None else encoder
    return avi.AmortizedVI(MODEL, encoder, family, **options)
