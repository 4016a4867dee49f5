"""A small estimator to save and load."""

from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

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


def assert_same(one: avi.AmortizedVI, two: avi.AmortizedVI, tolerance: float = 0.0) -> None:
    """Compare everything that is saved except the durations of epochs; by default, bit for bit."""
    for mine, theirs in ((one.guide, two.guide), (one.generative, two.generative)):
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=tolerance, atol=tolerance)
    histories = [vi.history.drop(columns="seconds") for vi in (one, two)]
    pd.testing.assert_frame_equal(*histories, check_exact=not tolerance, rtol=max(tolerance, 1e-9))
    assert (repr(one), one.dtype, one.freeze_model) == (repr(two), two.dtype, two.freeze_model)
    assert one.objective == two.objective
