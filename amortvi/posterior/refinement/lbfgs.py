"""L-BFGS (Nocedal and Wright, 2006, chapter 7) for many small problems at once, each with its own step size and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["STATE_PER_PARAMETER", "OptimizeResult", "minimize"]

_MEMORY = 10
STATE_PER_PARAMETER = 2 * _MEMORY
"""The number of values that the optimizer stores for each variable."""
_SUFFICIENT_DECREASE = 1e-4
_SHORTEST_STEP = 2.0**-12
_IN_A_ROW = 2
"""How many consecutive predicted decreases must be small; early predictions rest on a poor estimate of the curvature."""


@dataclass(frozen=True)
class OptimizeResult:
    """The results for ``N`` problems.

    Args:
        point: the best points found, ``(N, P)``.
        converged: whether the search ended because no more than the tolerance was left to gain, ``(N,)``.
        steps: the number of steps taken, ``(N,)``.
    """

    point: Tensor
    converged: Tensor
    steps: Tensor

    @classmethod
    def initial(cls, start: Tensor) -> OptimizeResult:
        """Return the result before the first step from ``start``, ``(N, P)``."""
        steps = torch.zeros(len(start), dtype=torch.long, device=start.device)
        return cls(start.detach().clone(), torch.zeros_like(steps, dtype=torch.bool), steps)


ValueAndGradient: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Maps the rows of some of the problems, ``(R,)``, and their points, ``(R, P)``, to values, ``(R,)``, and gradients."""


def minimize(
    value_and_gradient: ValueAndGradient, start: Tensor, *, tolerance: float, max_steps: int
) -> OptimizeResult:
    """Minimize ``N`` functions of ``P`` variables each.

    A problem has converged when the predicted decrease of two consecutive steps is less than ``tolerance``, in units of the
    functions. The prediction is half the product of gradient and step, which is exact for Newton's step on a quadratic
    function. Converged problems are no longer evaluated; problems that remain after ``max_steps`` steps are not converged.
    """
    found = OptimizeResult.initial(start)
    at = _Points.first(value_and_gradient, start.detach())
    for _ in range(max_steps):
        direction = at.direction()
        predicted = -0.5 * (direction * at.gradient).sum(-1)
        at.small = torch.where(predicted < tolerance, at.small + 1, 0)
        done = at.small >= _IN_A_ROW
        found.converged[at.rows[done]] = True
        at, direction = at.take(~done), direction[~done]
        if not len(at.rows):
            break
        moved = at.step(value_and_gradient, direction)
        found.point[at.rows] = at.point
        found.steps[at.rows] += 1
        # Where even steepest descent gives no decrease, only rounding errors remain.
        stuck = ~moved & (at.pairs == 0)
        at.forget(~moved)
        at = at.take(~stuck)
    return found


@dataclass
class _Points:
    """The state of the ``R`` problems that have not converged.

    Args:
        rows: their positions among all problems, ``(R,)``.
        point: the current points, ``(R, P)``.
        value: the values of the functions, ``(R,)``.
        gradient: their gradients, ``(R, P)``.
        steps: the last ``M`` steps, newest first, ``(R, M, P)``.
        changes: the changes of the gradient over these steps, ``(R, M, P)``.
        weights: the inverse inner products of the two, ``(R, M)``; zero for a pair that is not stored.
        pairs: the number of pairs stored, ``(R,)``.
        small: the number of consecutive small predicted decreases, ``(R,)``.
    """

    rows: Tensor
    point: Tensor
    value: Tensor
    gradient: Tensor
    steps: Tensor
    changes: Tensor
    weights: Tensor
    pairs: Tensor
    small: Tensor

    @classmethod
    def first(cls, value_and_gradient: ValueAndGradient, point: Tensor) -> _Points:
        """Return the state at the start."""
        rows = torch.arange(len(point), device=point.device)
        memory, none = point.new_zeros(len(point), _MEMORY, point.shape[1]), torch.zeros_like(rows)
        value_there = value_and_gradient(rows, point)
        return cls(rows, point, *value_there, memory, memory.clone(), memory[:, :, 0].clone(), pairs=none, small=none)

    def take(self, rows: Tensor) -> _Points:
        """Return the state of some of the problems."""
        return self if bool(rows.all()) else _Points(*(value[rows] for value in vars(self).values()))

    def direction(self) -> Tensor:
        """Return the quasi-Newton direction by the two-loop recursion, ``(R, P)``."""
        left, parts = self.gradient.clone(), []
        memory = list(zip(self.steps.unbind(1), self.changes.unbind(1), self.weights.unbind(1), strict=True))
        for step, change, weight in memory:
            part = weight * (step * left).sum(-1)
            left = left - part.unsqueeze(-1) * change
            parts.append(part)
        left = left * self._first_guess().unsqueeze(-1)
        for (step, change, weight), part in zip(reversed(memory), reversed(parts), strict=True):
            left = left + step * (part - weight * (change * left).sum(-1)).unsqueeze(-1)
        return -left

    def _first_guess(self) -> Tensor:
        """Return the scale of the initial inverse Hessian: from the last pair or, if there is none, for a step of length one."""
        squared = self.changes[:, 0].square().sum(-1)
        by_step = 1 / (self.weights[:, 0] * squared).clamp_min(torch.finfo(squared.dtype).tiny)
        by_length = 1 / self.gradient.norm(dim=-1).clamp_min(1.0)
        return torch.where(self.pairs > 0, by_step, by_length)

    def step(self, value_and_gradient: ValueAndGradient, direction: Tensor) -> Tensor:
        """Search along ``direction`` for a sufficient decrease, and return which problems have moved."""
        slope = (direction * self.gradient).sum(-1)
        rounding = 4 * torch.finfo(self.value.dtype).eps * self.value.abs()
        moved = torch.zeros_like(self.value, dtype=torch.bool)
        left = torch.arange(len(self.value), device=self.value.device)
        length = torch.ones_like(self.value)
        new = self.point.clone(), self.value.clone(), self.gradient.clone()
        while len(left):
            points = self.point[left] + length[left].unsqueeze(-1) * direction[left]
            value, gradient = value_and_gradient(self.rows[left], points)
            enough = self.value[left] + _SUFFICIENT_DECREASE * length[left] * slope[left] + rounding[left]
            good = (value <= enough) & torch.isfinite(gradient).all(-1)
            for whole, part in zip(new, (points, value, gradient), strict=True):
                whole[left[good]] = part[good]
            moved[left[good]] = True
            left, tried = left[~good], value[~good]
            # The minimum of the interpolating parabola, within bounds; half the length if it is not finite.
            fall = -slope[left] * length[left]
            shorter = fall / (2 * (tried - self.value[left] + fall))
            length[left] *= torch.nan_to_num(shorter, nan=0.5, posinf=0.5, neginf=0.5).clamp(0.1, 0.5)
            left = left[length[left] > _SHORTEST_STEP]
        self._remember(new[0] - self.point, new[2] - self.gradient, moved)
        self.point, self.value, self.gradient = new
        return moved

    def _remember(self, step: Tensor, change: Tensor, moved: Tensor) -> None:
        curvature = (step * change).sum(-1)
        # A pair with negative or negligible curvature would spoil the next directions.
        enough = torch.finfo(step.dtype).eps * change.square().sum(-1)
        keep = moved & (curvature > enough)
        weight = torch.where(keep, 1 / torch.where(keep, curvature, 1.0), 0.0)
        for memory, newest in ((self.steps, step), (self.changes, change), (self.weights, weight)):
            shifted = torch.cat([newest.unsqueeze(1), memory[:, :-1]], dim=1)
            memory[keep] = shifted[keep]
        self.pairs = torch.where(keep, self.pairs + 1, self.pairs)

    def forget(self, rows: Tensor) -> None:
        """Clear the memory of some problems, so that they restart with steepest descent."""
        self.weights[rows] = 0
        self.pairs = torch.where(rows, 0, self.pairs)
