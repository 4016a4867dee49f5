"""A small estimator to save and load."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

import amortvi as avi

X = avi.models.LinearGaussian(torch.tensor([[1.0, 0.5], [0.0, 1.0], [0.3, 0.3]]), scale=0.5).simulate(80, seed=0)
SHORT = {"epochs": 2, "lr": 0.01, "batch_size": 32, "seed": 0, "progress": False}


def make_model(norm: bool = False) -> avi.models.VAE:
    layers: list[nn.Module] = [nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3)]
    return avi.models.VAE(nn.Sequential(*layers[:1], *([nn.BatchNorm1d(8)] if norm else []), *layers[1:]), 2, "normal")


def make_encoder() -> avi.encoders.MLP:
    return avi.encoders.MLP(3, [8])


def make_vi(family: Any = "diagonal", **options: Any) -> avi.AmortizedVI:
    """Return an estimator that is set up, but not trained."""
    return avi.AmortizedVI(make_model(), make_encoder(), family, **options).setup(X, seed=0)


def load(path: Path | str, family: Any = None) -> avi.AmortizedVI:
    return avi.AmortizedVI.load(path, make_model(), make_encoder(), family)


def state_of(vi: avi.AmortizedVI) -> dict[str, Tensor]:
    parts = {"guide": vi.guide, "model": vi.generative}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.state_dict().items()}


def assert_same(one: avi.AmortizedVI, two: avi.AmortizedVI) -> None:
    """Compare everything that is saved, bit for bit."""
    states = state_of(one), state_of(two)
    assert states[0].keys() == states[1].keys()
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]), name
        assert states[0][name].dtype == states[1][name].dtype
    pd.testing.assert_frame_equal(one.history, two.history)
    assert (one.dtype, one.freeze_model, one.objective) == (two.dtype, two.freeze_model, two.objective)
    assert repr(one) == repr(two)
