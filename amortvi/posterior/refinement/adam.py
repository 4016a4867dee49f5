"""Adam (Kingma and Ba, 2015) with noisy gradients for many small problems at once, each run until it stops improving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from amortvi.posterior.refinement.lbfgs import OptimizeResult

__all__ = ["climb"]

_AVERAGES = (0.9, 0.99)
_ROUND = 50
"""The number of steps between two evaluations of the functions."""
_REDUCTION = 0.3
_REDUCTIONS = 3
"""How often the learning rate is reduced before a problem that no longer improves counts as converged."""


@dataclass
class _Climbers:
    """The state of the problems that have not converged: rows, points, moments of the gradients, rates, reductions."""

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
    """Maximize ``N`` functions of ``P`` variables each, given noisy gradients.

    After every 50 steps, the functions are evaluated at the average of the last 25 points. If a function has not increased by
    ``tolerance``, its learning rate is multiplied by 0.3; if it has not increased after the third reduction, it has converged.
    The result is the best of these averages.

    Args:
        gradient: maps the rows of some of the problems, ``(R,)``, and their points, ``(R, P)``, to noisy gradients, ``(R, P)``.
        bound: maps the same to the values of the functions, ``(R,)``, with the same noise at each call.
        start: ``(N, P)``.
        lr: the approximate change of a coordinate in one step.
        tolerance: in units of the functions.
        max_steps: the number of steps after which a problem counts as not converged.
    """
    found = OptimizeResult.initial(start)
    rows, zeros = torch.arange(len(start), device=start.device), torch.zeros_like(start)
    best = bound(rows, start)
    at = _Climbers(rows, start.detach(), zeros, zeros, start.new_full((len(start),), lr), torch.zeros_like(rows))
    for taken in range(0, max_steps, _ROUND):
        steps = min(_ROUND, max_steps - taken)
        average = _round(at, gradient, taken, steps)
        found.steps[at.rows] += steps
        reached = bound(at.rows, average)
        gained = reached - best[at.rows]
        better = gained > 0
        found.point[at.rows[better]] = average[better]
        best[at.rows[better]] = reached[better]
        # Negated, so that NaN counts as no improvement.
        stalled = ~(gained > tolerance)
        at.rate = torch.where(stalled, _REDUCTION * at.rate, at.rate)
        at.reduced = at.reduced + stalled
        # A stalled search continues from the best point found so far.
        at.point = torch.where(stalled.unsqueeze(-1), found.point[at.rows], at.point)
        done = at.reduced > _REDUCTIONS
        found.converged[at.rows[done]] = True
        at = at.take(~done)
        if not len(at.rows):
            break
    return found


def _round(at: _Climbers, gradient: Callable[[Tensor, Tensor], Tensor], taken: int, steps: int) -> Tensor:
    """Take ``steps`` steps in place, after ``taken`` earlier ones, and return the average point of their second half."""
    decay_first, decay_second = _AVERAGES
    total, counted = torch.zeros_like(at.point), 0
    for step in range(taken + 1, taken + steps + 1):
        slope = gradient(at.rows, at.point)
        at.first = decay_first * at.first + (1 - decay_first) * slope
        at.second = decay_second * at.second + (1 - decay_second) * slope.square()
        mean = at.first / (1 - decay_first**step)
        size = (at.second / (1 - decay_second**step)).sqrt()
        at.point = at.point + at.rate.unsqueeze(-1) * mean / (size + torch.finfo(size.dtype).eps)
        if step - taken > steps // 2:
            total, counted = total + at.point, counted + 1
    return total / counted
