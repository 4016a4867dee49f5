"""Fits that are interrupted and resumed, and what must be equal at the end."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.utils.data import DataLoader

import amortvi as avi
from amortvi.io import load_run
from amortvi.io.trees import encode
from tests import global_latents, labels
from tests.data.forms import Rows

X = avi.models.LinearGaussian(torch.tensor([[1.0, 0.5], [0.0, 1.0], [0.3, 0.3]]), scale=0.5).simulate(100, seed=0)
EPOCHS = 12
SHORT: dict[str, Any] = {"epochs": EPOCHS, "batch_size": 30, "seed": 0, "progress": False}
"""A fit of twelve epochs with four steps each, the last of another shape."""


def make_vi(family: Any = "full", *, norm: bool = False, dropout: float = 0.0, width: int = 8) -> avi.AmortizedVI:
    """Return an estimator that has the same initial parameters at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        layers = [nn.Linear(2, width), *([nn.BatchNorm1d(width)] if norm else []), nn.Tanh(), nn.Linear(width, 3)]
        encoder = avi.encoders.MLP(3, [width], dropout=dropout)
        return avi.AmortizedVI(avi.models.VAE(nn.Sequential(*layers), 2, "normal"), encoder, family)


class Interrupt(avi.callbacks.Callback):
    """Presses Ctrl-C after a step of an epoch, or at the end of the epoch if there is no step."""

    def __init__(self, epoch: int, step: int | None = None) -> None:
        self.epoch, self.step = epoch, step

    def on_step_end(self, fit: avi.callbacks.RunningFit) -> None:
        if (fit.epoch, fit.step) == (self.epoch, self.step):
            raise KeyboardInterrupt

    def on_epoch_end(self, fit: avi.callbacks.RunningFit) -> None:
        if self.step is None and fit.epoch == self.epoch:
            raise KeyboardInterrupt


def draws_from_every_generator(x: Tensor) -> None:
    """A model that augments its data with the generators of Python and NumPy, and with that of PyTorch."""
    net = pyro.module("net", draws_from_every_generator.net)  # type: ignore[attr-defined]
    noise = random.gauss(0, 0.1) + np.random.normal(0, 0.1) + 0.1 * float(torch.randn(()))  # noqa: NPY002
    with pyro.plate("data", x.shape[0]):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(net(z) + noise, 0.5).to_event(1), obs=x)


def make_drawing() -> avi.AmortizedVI:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        draws_from_every_generator.net = nn.Linear(2, 3)  # type: ignore[attr-defined]
        return avi.AmortizedVI(draws_from_every_generator, avi.encoders.MLP(3, [8]), "diagonal")


def make_labelled() -> avi.AmortizedVI:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return avi.AmortizedVI(labels.model, avi.encoders.MLP(3, [8]), "full", labels="y")


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(Rows(X), batch_size=30, shuffle=True, **options)


@dataclass(frozen=True)
class Case:
    """A fit.

    Args:
        make: returns the estimator, the same at each call.
        x: returns the data.
        options: the options in which the fit differs from `SHORT`.
    """

    make: Callable[[], avi.AmortizedVI] = make_vi
    x: Callable[[], Any] = field(default=lambda: X)
    options: dict[str, Any] = field(default_factory=dict)

    def fit(self, vi: avi.AmortizedVI | None = None, **options: Any) -> avi.AmortizedVI:
        chosen = {**SHORT, **self.options, **options}
        return (self.make() if vi is None else vi).fit(self.x(), **{k: v for k, v in chosen.items() if v != "none"})


def eager(**options: Any) -> Case:
    return Case(options={"compile": False, **options})


def scheduled(schedule: Any) -> Case:
    return eager(lr_schedule=schedule, validation_data=X[:30])


def _two_schedules(optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    parts = [lr_scheduler.ConstantLR(optimizer), lr_scheduler.ExponentialLR(optimizer, 0.9)]
    return lr_scheduler.SequentialLR(optimizer, parts, [4])


CASES: dict[str, Case] = {
    "eager": Case(partial(make_vi, dropout=0.1), options={"compile": False}),
    "recorded": Case(partial(make_vi, dropout=0.1), options={"epochs": 40}),
    "patience": eager(validation_data=0.3, patience=3, lr=0.1, lr_schedule="constant", epochs=100),
    "recorded with validation": Case(options={"validation_data": 0.3, "patience": 30, "epochs": 40}),
    "constant learning rate": eager(lr_schedule="constant"),
    "StepLR": scheduled(partial(lr_scheduler.StepLR, step_size=5, gamma=0.5)),
    "ReduceLROnPlateau": scheduled(partial(lr_scheduler.ReduceLROnPlateau, patience=0)),
    "OneCycleLR": scheduled(partial(lr_scheduler.OneCycleLR, max_lr=0.1, total_steps=30)),
    "SequentialLR": scheduled(_two_schedules),
    "LambdaLR": scheduled(lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.9**epoch)),
    "NAdam": Case(options={"optimizer": torch.optim.NAdam}),
    "LBFGS": Case(options={"optimizer": partial(torch.optim.LBFGS, max_iter=3), "lr": 1e-4}),
    "SGD": Case(options={"optimizer": partial(torch.optim.SGD, momentum=0.9), "lr": 1e-3}),
    "lambda as optimizer": eager(optimizer=lambda parameters, lr: torch.optim.Adam(parameters, lr=lr)),
    "KL schedule": eager(objective=avi.objectives.ELBO(kl_weight=avi.objectives.LinearSchedule(epochs=9))),
    "loader": Case(x=loader, options={"batch_size": None, "compile": False}),
    "loader with a generator": Case(
        x=lambda: loader(generator=torch.Generator().manual_seed(3)), options={"batch_size": None, "compile": False}
    ),
    "labels": Case(make_labelled, lambda: labels.data(100, 30)[:2], {"compile": False}),
    "global latents": Case(
        global_latents.estimator, lambda: global_latents.X.float(), {"batch_size": 15, "compile": False}
    ),
    "batch normalization": Case(partial(make_vi, norm=True, dropout=0.2)),
    "flow": Case(partial(make_vi, "flow"), options={"compile": False}),
    "float64": Case(x=X.double, options={"dtype": torch.float64}),
    "every generator": Case(make_drawing, options={"compile": False}),
    "continued": Case(lambda: eager(epochs=3, seed=5).fit(make_vi()), options={"compile": False}),
}


def content(vi: avi.AmortizedVI) -> tuple[Any, dict[str, Tensor]]:
    """Return everything that a saved run contains, except the durations of epochs, as comparable values and tensors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run")
        vi.save(path)
        saved = load_run(path)
    tensors: dict[str, Tensor] = {}
    values = encode({**saved.tree, "history": saved.tree["history"][:, :-1]}, tensors, "run")
    return values, tensors


def assert_equal(one: avi.AmortizedVI, two: avi.AmortizedVI) -> None:
    """Compare parameters, buffers, optimizer, history and status bit for bit."""
    (values, tensors), (other_values, other_tensors) = content(one), content(two)
    assert values == other_values
    assert tensors.keys() == other_tensors.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == other_tensors[name].dtype, name
        # NaN is what the history has for fits without validation.
        assert torch.equal(tensor.nan_to_num(), other_tensors[name].nan_to_num()), name


def checkpoints(folder: Path) -> list[str]:
    """Return the names of the checkpoints in a folder, in the order of their epochs."""
    return sorted(file.name for file in folder.glob("epoch-*"))
