"""The conformance suite of objectives, on a model whose evidence is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

from amortvi._util.random import random_state
from amortvi.compile.recording import record
from amortvi.data import Batch
from amortvi.families import Diagonal
from amortvi.model.library import LinearGaussian
from amortvi.model.program import GenerativeModel
from amortvi.objectives import Objective
from amortvi.posterior.guide import AmortizedGuide

__all__ = ["OBJECTIVE_CHECKS"]

_OBSERVATIONS = 50


def _model() -> LinearGaussian:
    loadings = torch.tensor([[1.0, 0.8], [0.2, 1.0], [0.5, -0.5]], dtype=torch.float64)
    return LinearGaussian(loadings, scale=0.7)


def _guide(model: Callable[..., Any], x: Tensor) -> AmortizedGuide:
    """A guide near the exact posterior, so that bounds are close to the evidence but not at it."""
    exact = _model()
    precision = exact.precision()
    encoder = nn.Linear(3, 4, dtype=torch.float64)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.weight[:2] = torch.linalg.solve(precision, exact.W.mT) / exact.scale.square()
        encoder.bias[:2] = 0.05
        encoder.bias[2:] = -0.5 * precision.diagonal().log()
    return AmortizedGuide(model, encoder, partial(Diagonal, head=False)).setup(x)


def _subsampled(x: Tensor) -> None:
    """The same model, written as a plate of 10,000 observations of which ``x`` are a subsample."""
    exact = _model()
    with pyro.plate("data", 10_000, subsample=x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ exact.W.mT, exact.scale).to_event(1), obs=x)


def _bounds(objective: Objective, model: Callable[..., Any], x: Tensor, runs: int) -> Tensor:
    """The bound of each observation in independent runs, ``(runs, B)``."""
    generative, guide, batch = GenerativeModel(model), _guide(model, x), Batch((x,))
    with random_state(0), torch.no_grad():
        return torch.stack([objective.estimate(generative, guide, batch).bound for _ in range(runs)])


def check_shape_and_gradient(objective: Objective) -> None:
    """The bound is a number an observation; what training follows has a finite gradient for each parameter of the guide."""
    x = _model().simulate(_OBSERVATIONS, seed=0)
    model = GenerativeModel(_model())
    guide = _guide(model, x)
    estimate = objective.estimate(model, guide, Batch((x,)))
    for name, value in (("bound", estimate.bound), ("surrogate", estimate.surrogate)):
        shape = (_OBSERVATIONS,) if value is None else tuple(value.shape)
        assert shape == (_OBSERVATIONS,), f"the {name} has shape {shape}, expected ({_OBSERVATIONS},)"
    estimate.loss(_OBSERVATIONS).backward()
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None, f"{name} gets no gradient"
        assert bool(torch.isfinite(parameter.grad).all()), f"{name} gets a gradient that is not finite"


def check_bound_stays_the_same(objective: Objective) -> None:
    """What is reported is one quantity throughout a fit, so that epochs can be compared; with and without a gradient."""
    model, x = GenerativeModel(_model()), _model().simulate(_OBSERVATIONS, seed=0)
    guide = _guide(model, x)
    bounds = []
    for epochs in (0.0, 0.5, 1.0, 7.25, 1000.0):
        objective.advance(epochs)
        with random_state(0):
            bounds.append(objective.estimate(model, guide, Batch((x,))).bound.detach())
    with random_state(0), torch.no_grad():
        bounds.append(objective.estimate(model, guide, Batch((x,))).bound)
    same = all(torch.allclose(bound, bounds[0], rtol=1e-12) for bound in bounds)
    assert same, (
        "the bound of the same draws changes while training: let it be reported unweighted, and give a surrogate"
    )


def check_can_be_recorded(objective: Objective) -> None:
    """A recorded step has the numbers of an eager one, also when the objective has moved on since it was recorded."""
    model, x = GenerativeModel(_model()), _model().simulate(_OBSERVATIONS, seed=0)
    guide = _guide(model, x)

    def loss_and_gradient(x: Tensor) -> list[Tensor]:
        # As a fit does it: what distributions check is read from their tensors.
        with pyro.validation_enabled(False):
            loss = objective.estimate(model, guide, Batch((x,))).loss(_OBSERVATIONS)
        return [loss.detach(), *torch.autograd.grad(loss, list(guide.parameters()))]

    objective.advance(0.25)
    recording = record(loss_and_gradient, [x], [x + 1])
    for epochs in (0.25, 3.5, 1000.0):
        objective.advance(epochs)
        with random_state(1):
            expected = loss_and_gradient(x)
        with random_state(1), torch.no_grad():
            recorded = recording.graph(x, *(tensor.detach() for tensor in recording.outside))[: recording.results]
        same = all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(recorded, expected, strict=True))
        assert same, (
            "a recorded step is another than an eager one: keep what changes in a tensor that is changed in place"
        )


def check_below_evidence(objective: Objective) -> None:
    """The mean of the bound does not exceed the log evidence, within Monte Carlo error."""
    exact = _model()
    x = exact.simulate(_OBSERVATIONS, seed=0)
    estimates = _bounds(objective, exact, x, runs=100).mean(1)
    evidence = exact.log_evidence(x).mean()
    allowed = 5 * estimates.std() / math.sqrt(len(estimates))
    assert bool(estimates.mean() <= evidence + allowed), f"{estimates.mean():.4f} exceeds the evidence {evidence:.4f}"


def check_batch_size(objective: Objective) -> None:
    """An observation's bound does not depend on which others are in its batch, nor on how the plate is written.

    Objectives that put scaled log-probabilities inside a nonlinear function fail here.
    """
    x = _model().simulate(_OBSERVATIONS, seed=0)
    plain, subsampled = _bounds(objective, _model(), x, runs=1), _bounds(objective, _subsampled, x, runs=1)
    assert torch.allclose(plain, subsampled, rtol=1e-10), "a subsampled plate changes the bound of an observation"
    few = _bounds(objective, _model(), x[:10], runs=200).mean(1)
    many = _bounds(objective, _model(), x, runs=200)[:, :10].mean(1)
    allowed = 5 * ((few.var() + many.var()) / 200).sqrt()
    assert abs(few.mean() - many.mean()) <= allowed, "the bound depends on the batch's size"


OBJECTIVE_CHECKS: tuple[Callable[[Objective], None], ...] = (
    check_shape_and_gradient,
    check_bound_stays_the_same,
    check_can_be_recorded,
    check_below_evidence,
    check_batch_size,
)
"""Every check, each ``(objective) -> None``; they leave the random state of the caller as it was."""
