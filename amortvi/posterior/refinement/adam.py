"""Adam (Kingma and Ba, 2015) for many small problems at once, with fresh noise at each step, each until it stands still."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from amortvi.posterior.refinement.lbfgs import OptimizeResult

__all__ = ["climb"]

_AVERAGES = (0.9, 0.99)
_ROUND = 50
"""Steps between two looks at the bound."""
_REDUCTION = 0.3
_REDUCTIONS = 3
"""How often the learning rate is reduced before a problem that gains nothing more counts as done."""


@dataclass
class _Climbers:
    """Where the problems that are not done are."""

    rows: Tensor
    point: Tensor
    first: Tensor
    second: Tensor
    rate: Tensor
    reduced: Tensor

    def take(self, chosen: Tensor) -> _Climbers:
        return _Climbers(*(value[chosen] for value in vars(self).values()))


def climb(
    gradient: Callable[[Tensor, Tensor], Tensor],
    bound: Callable[[Tensor, Tensor], Tensor],
    start: Tensor,
    *,
    lr: float,
    tolerance: float,
    max_steps: int,
) -> OptimizeResult:
    """Maximise ``N`` functions of ``P`` numbers each, known by noisy gradients.

    Every fifty steps the average of the last half of them is looked at. Where the bound has not risen by ``tolerance``, the
    learning rate falls to three tenths; after the third time the problem is done. The best average seen is what is returned.

    Args:
        gradient: called with the positions ``(R,)`` of some of the problems and their points ``(R, P)``; returns noisy
            gradients ``(R, P)``.
        bound: called likewise; returns the functions ``(R,)``, each time on the same noise.
        start: ``(N, P)``.
        lr: about how far a number moves in a step.
        tolerance: in units of the functions.
        max_steps: after which a problem counts as not converged.
    """
    count = start.shape[0]
    rows = torch.arange(count, device=start.device)
    found = OptimizeResult(
        start.detach().clone(),
        torch.zeros(count, dtype=torch.bool, device=start.device),
        torch.zeros(count, dtype=torch.long, device=start.device),
    )
    best = bound(rows, start)
    zeros = torch.zeros_like(start)
    at = _Climbers(
        rows, start.detach().clone(), zeros, zeros.clone(), start.new_full((count,), lr), torch.zeros_like(rows)
    )
    for begun in range(0, max_steps, _ROUND):
        steps = min(_ROUND, max_steps - begun)
        average = _round(at, gradient, begun, steps)
        found.steps[at.rows] += steps
        reached = bound(at.rows, average)
        gained = reached - best[at.rows]
        better = gained > 0
        found.point[at.rows[better]] = average[better]
        best[at.rows[better]] = reached[better]
        # Written so that a bound that is not finite counts as nothing gained.
        still = ~(gained > tolerance)
        at.rate = torch.where(still, _REDUCTION * at.rate, at.rate)
        at.reduced = at.reduced + still
        # From where it was best, and not from where the noise has carried it.
        at.point = torch.where(still.unsqueeze(-1), found.point[at.rows], at.point)
        done = at.reduced > _REDUCTIONS
        found.converged[at.rows[done]] = True
        at = at.take(~done)
        if not len(at.rows):
            break
    return found


def _round(at: _Climbers, gradient: Callable[[Tensor, Tensor], Tensor], begun: int, steps: int) -> Tensor:
    """Take some steps, in place, and return the average of the points of their second half."""
    decay_first, decay_second = _AVERAGES
    total, counted = torch.zeros_like(at.point), 0
    for step in range(begun + 1, begun + steps + 1):
        slope = gradient(at.rows, at.point)
        at.first = decay_first * at.first + (1 - decay_first) * slope
        at.second = decay_second * at.second + (1 - decay_second) * slope.square()
        mean = at.first / (1 - decay_first**step)
        size = (at.second / (1 - decay_second**step)).sqrt()
        at.point = at.point + at.rate.unsqueeze(-1) * mean / (size + torch.finfo(size.dtype).eps)
        if step - begun > steps // 2:
            total, counted = total + at.point, counted + 1
    return total / counted
