"""The conformance suite of objectives: what every objective must satisfy, checked on a model whose evidence is known.

Each check takes an `objectives.Objective` and raises `AssertionError` with the reason. Statistical checks use a fixed seed and
allow for five standard errors.

Example:
    >>> import amortvi as avi
    >>> for check in avi.testing.OBJECTIVE_CHECKS:
    ...     check(avi.objectives.IWAE(3))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro
import torch
from pyro import distributions as dist
from torch import Tensor, nn

from amortvi._util.random import random_state
from amortvi.compile.recording import record
from amortvi.data import Batch
from amortvi.families import Diagonal, Draws
from amortvi.model.library import LinearGaussian
from amortvi.objectives import Estimate, Objective
from amortvi.posterior import AmortizedGuide, LogWeights

__all__ = ["OBJECTIVE_CHECKS"]

_OBSERVATIONS = 50
_STANDARD_ERRORS = 5.0


def _model() -> LinearGaussian:
    loadings = torch.tensor([[1.0, 0.8], [0.2, 1.0], [0.5, -0.5]], dtype=torch.float64)
    return LinearGaussian(loadings, scale=0.7)


def _subsampled(x: Tensor) -> None:
    """The same model with ``x`` as a subsample of a plate of 10,000 observations."""
    exact = _model()
    with pyro.plate("data", 10_000, subsample=x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=torch.float64), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ exact.W.mT, exact.scale).to_event(1), obs=x)


def _problem(program: Callable[..., Any] | None = None) -> tuple[AmortizedGuide, Tensor]:
    """Return a guide close to the exact posterior, so that bounds are close to the evidence but below it, and the data."""
    exact = _model()
    x, precision = exact.simulate(_OBSERVATIONS, seed=0), exact.precision()
    encoder = nn.Linear(3, 4, dtype=torch.float64)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.weight[:2] = torch.linalg.solve(precision, exact.W.mT) / exact.scale.square()
        encoder.bias[:2] = 0.05
        encoder.bias[2:] = -0.5 * precision.diagonal().log()
    return AmortizedGuide(program or exact, encoder, Diagonal(head=False)).setup(x), x


def _estimate(objective: Objective, guide: AmortizedGuide, x: Tensor, seed: int | None = 0) -> Estimate:
    with random_state(seed):
        return objective.estimate(guide.model, guide.network, Batch((x,)))


def _bounds(objective: Objective, guide: AmortizedGuide, x: Tensor, runs: int) -> Tensor:
    """Return the bound of each observation in independent runs, ``(runs, B)``."""
    with random_state(0), torch.no_grad():
        return torch.stack([_estimate(objective, guide, x, seed=None).bound for _ in range(runs)])


def check_shape_and_gradient(objective: Objective) -> None:
    """Bound and surrogate have one value per observation, and the loss has a finite gradient for each parameter."""
    guide, x = _problem()
    estimate = _estimate(objective, guide, x)
    for name, value in (("bound", estimate.bound), ("surrogate", estimate.surrogate)):
        shape = (_OBSERVATIONS,) if value is None else tuple(value.shape)
        assert shape == (_OBSERVATIONS,), f"the {name} has shape {shape}, expected ({_OBSERVATIONS},)"
    estimate.loss(_OBSERVATIONS).backward()
    for name, parameter in guide.named_parameters():
        assert parameter.grad is not None, f"{name} has no gradient"
        assert bool(torch.isfinite(parameter.grad).all()), f"the gradient of {name} is not finite"


def check_bound_stays_the_same(objective: Objective) -> None:
    """The bound is the same quantity throughout a fit, with and without gradients, so that epochs can be compared."""
    guide, x = _problem()
    bounds = []
    for epochs in (0.0, 0.5, 1.0, 7.25, 1000.0):
        objective.advance(epochs)
        bounds.append(_estimate(objective, guide, x).bound.detach())
    with torch.no_grad():
        bounds.append(_estimate(objective, guide, x).bound)
    same = all(torch.allclose(bound, bounds[0], rtol=1e-12) for bound in bounds)
    assert same, "the bound of the same draws changes during training: return an unweighted bound, and a surrogate"


def check_can_be_recorded(objective: Objective) -> None:
    """A recorded step computes the same as an eager one, even after `Objective.advance`."""
    guide, x = _problem()

    def loss_and_gradients(x: Tensor) -> list[Tensor]:
        # Validation, which reads values of tensors, is off during a fit.
        with pyro.validation_enabled(False):
            loss = _estimate(objective, guide, x, seed=None).loss(_OBSERVATIONS)
        return [loss.detach(), *torch.autograd.grad(loss, list(guide.parameters()))]

    objective.advance(0.25)
    recording = record(loss_and_gradients, [x])
    for epochs in (0.25, 3.5, 1000.0):
        objective.advance(epochs)
        with random_state(1):
            expected = loss_and_gradients(x)
        with random_state(1), torch.no_grad():
            recorded = recording.graph(x, *(tensor.detach() for tensor in recording.outside))[: recording.results]
        same = all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(recorded, expected, strict=True))
        assert same, "a recorded step differs from an eager one: `advance` must change tensors in place"


def check_below_evidence(objective: Objective) -> None:
    """The mean of the bound does not exceed the log evidence, within Monte Carlo error."""
    guide, x = _problem()
    estimates, evidence = _bounds(objective, guide, x, runs=100).mean(1), _model().log_evidence(x).mean()
    allowed = _STANDARD_ERRORS * estimates.std() / math.sqrt(len(estimates))
    assert bool(estimates.mean() <= evidence + allowed), f"{estimates.mean():.4f} exceeds the evidence {evidence:.4f}"


def check_stratified_draws(objective: Objective) -> None:
    """A draw that is listed twice, with a third and two thirds of its share, counts as the draw itself."""
    generator = torch.Generator().manual_seed(0)
    log_weight = torch.randn(objective.particles, 4, generator=generator, dtype=torch.float64)
    once, twice = log_weight, torch.cat([log_weight, log_weight])
    shares = torch.tensor([1.0, 2.0], dtype=torch.float64).repeat_interleave(objective.particles) / 3
    log_share = (shares / objective.particles).log().unsqueeze(-1).expand_as(twice)
    expected = objective.bound(_weights(once, None))
    assert torch.allclose(objective.bound(_weights(twice, log_share)), expected), "the shares of the draws are ignored"


def _weights(log_weight: Tensor, log_share: Tensor | None) -> LogWeights:
    zero = torch.zeros_like(log_weight)
    drawn = Draws(zero.unsqueeze(-1), log_share)
    return LogWeights({"x": log_weight}, {"z": zero}, zero, None, torch.zeros(()), drawn)


def check_batch_size(objective: Objective) -> None:
    """The bound of an observation depends neither on the rest of its batch nor on how the plate is declared.

    Objectives that apply a nonlinear function to scaled log-probabilities fail this check.
    """
    guide, x = _problem()
    plain, subsampled = _estimate(objective, guide, x), _estimate(objective, *_problem(_subsampled))
    same = torch.allclose(plain.bound, subsampled.bound, rtol=1e-10)
    assert same, "a subsampled plate changes the bound of an observation"
    few, many = (_bounds(objective, guide, rows, runs=200)[:, :10].mean(1) for rows in (x[:10], x))
    allowed = _STANDARD_ERRORS * ((few.var() + many.var()) / 200).sqrt()
    assert abs(few.mean() - many.mean()) <= allowed, "the bound depends on the batch size"


OBJECTIVE_CHECKS: tuple[Callable[[Objective], None], ...] = (
    check_shape_and_gradient,
    check_bound_stays_the_same,
    check_can_be_recorded,
    check_below_evidence,
    check_batch_size,
)
"""All checks, ``(objective) -> None``; they leave the caller's random state untouched."""
