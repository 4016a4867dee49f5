"""L-BFGS for many small problems at once (Nocedal and Wright, 2006, chapter 7), each with its own steps and memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

__all__ = ["STATE_PER_PARAMETER", "OptimizeResult", "minimize"]

_MEMORY = 10
STATE_PER_PARAMETER = 2 * _MEMORY
"""How many numbers are kept for each that is searched."""
_SUFFICIENT_DECREASE = 1e-4
_SHORTEST_STEP = 2.0**-12
_IN_A_ROW = 2
"""How many steps in a row must promise next to nothing: the first steps know little of the curvature."""


@dataclass(frozen=True)
class OptimizeResult:
    """What was found for each of ``N`` problems.

    Args:
        point: ``(N, P)``.
        converged: whether less than the tolerance was left to be gained, ``(N,)``.
        steps: how many steps it took, ``(N,)``.
    """

    point: Tensor
    converged: Tensor
    steps: Tensor


ValueAndGradient: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Called with the positions ``(R,)`` of some of the problems and their points ``(R, P)``; returns ``(R,)`` and ``(R, P)``."""


def minimize(
    value_and_gradient: ValueAndGradient, start: Tensor, *, tolerance: float, max_steps: int
) -> OptimizeResult:
    """Minimise ``N`` functions of ``P`` numbers each.

    A problem is done when the next step promises a decrease of less than ``tolerance`` (half the gradient times the step,
    which for a quadratic function and Newton's step is all that is left). Problems that are done cost nothing more.

    Args:
        value_and_gradient: the functions and their gradients.
        start: ``(N, P)``.
        tolerance: in units of the functions.
        max_steps: after which a problem counts as not converged.
    """
    count = start.shape[0]
    found = OptimizeResult(
        start.detach().clone(),
        torch.zeros(count, dtype=torch.bool, device=start.device),
        torch.zeros(count, dtype=torch.long, device=start.device),
    )
    at = _Points.first(value_and_gradient, start.detach())
    for _ in range(max_steps):
        direction = at.direction()
        promised = -0.5 * (direction * at.gradient).sum(-1)
        at.small = torch.where(promised < tolerance, at.small + 1, 0)
        done = at.small >= _IN_A_ROW
        found.converged[at.rows[done]] = True
        at, direction = at.take(~done), direction[~done]
        if not len(at.rows):
            break
        moved = at.step(direction)
        found.point[at.rows] = at.point
        found.steps[at.rows] += 1
        # Where nothing goes down any more, from the steepest direction too, rounding is all that is left.
        stuck = ~moved & (at.pairs == 0)
        at.forget(~moved)
        at = at.take(~stuck)
        if not len(at.rows):
            break
    return found


class _Points:
    """Where the problems are that are not done, and what their last steps told of the curvature."""

    def __init__(
        self,
        value_and_gradient: ValueAndGradient,
        rows: Tensor,
        point: Tensor,
        value: Tensor,
        gradient: Tensor,
        steps: Tensor,
        changes: Tensor,
        weights: Tensor,
        pairs: Tensor,
        small: Tensor,
    ) -> None:
        self.value_and_gradient = value_and_gradient
        self.rows, self.point, self.value, self.gradient = rows, point, value, gradient
        self.steps, self.changes, self.weights, self.pairs = steps, changes, weights, pairs
        self.small = small

    @classmethod
    def first(cls, value_and_gradient: ValueAndGradient, point: Tensor) -> _Points:
        count, size = point.shape
        rows = torch.arange(count, device=point.device)
        value, gradient = value_and_gradient(rows, point)
        memory = point.new_zeros(_MEMORY, count, size)
        none = torch.zeros(count, dtype=torch.long, device=point.device)
        weights = point.new_zeros(_MEMORY, count)
        return cls(
            value_and_gradient, rows, point, value, gradient, memory, memory.clone(), weights, none, none.clone()
        )

    def take(self, rows: Tensor) -> _Points:
        if bool(rows.all()):
            return self
        return _Points(
            self.value_and_gradient,
            self.rows[rows],
            self.point[rows],
            self.value[rows],
            self.gradient[rows],
            self.steps[:, rows],
            self.changes[:, rows],
            self.weights[:, rows],
            self.pairs[rows],
            self.small[rows],
        )

    def direction(self) -> Tensor:
        """Return the quasi-Newton direction, by the two-loop recursion; a pair that was not kept has weight zero."""
        left, parts = self.gradient.clone(), []
        for step, change, weight in zip(self.steps, self.changes, self.weights, strict=True):  # newest first
            part = weight * (step * left).sum(-1)
            left = left - part.unsqueeze(-1) * change
            parts.append(part)
        left = left * self._first_guess().unsqueeze(-1)
        history = zip(self.steps.flip(0), self.changes.flip(0), self.weights.flip(0), reversed(parts), strict=True)
        for step, change, weight, part in history:
            left = left + step * (part - weight * (change * left).sum(-1)).unsqueeze(-1)
        return -left

    def _first_guess(self) -> Tensor:
        """The scale of the inverse curvature: that of the last step, or such that the first step has length at most one."""
        squared = self.changes[0].square().sum(-1)
        by_step = 1 / (self.weights[0] * squared).clamp_min(torch.finfo(squared.dtype).tiny)
        by_length = 1 / self.gradient.norm(dim=-1).clamp_min(1.0)
        return torch.where(self.pairs > 0, by_step, by_length)

    def step(self, direction: Tensor) -> Tensor:
        """Go along ``direction`` as far as the function decreases enough; return which problems have moved."""
        slope = (direction * self.gradient).sum(-1)
        rounding = 4 * torch.finfo(self.value.dtype).eps * self.value.abs()
        moved = torch.zeros_like(self.value, dtype=torch.bool)
        left = torch.arange(len(self.value), device=self.value.device)
        length = torch.ones_like(self.value)
        new = self.point.clone(), self.value.clone(), self.gradient.clone()
        while len(left):
            points = self.point[left] + length[left].unsqueeze(-1) * direction[left]
            value, gradient = self.value_and_gradient(self.rows[left], points)
            enough = self.value[left] + _SUFFICIENT_DECREASE * length[left] * slope[left] + rounding[left]
            good = (value <= enough) & torch.isfinite(gradient).all(-1)
            for whole, part in zip(new, (points, value, gradient), strict=True):
                whole[left[good]] = part[good]
            moved[left[good]] = True
            left, tried = left[~good], value[~good]
            # The minimum of the parabola through what is known of the line, within bounds; halves where it is not finite.
            fall = -slope[left] * length[left]
            shorter = fall / (2 * (tried - self.value[left] + fall))
            length[left] *= torch.nan_to_num(shorter, nan=0.5, posinf=0.5, neginf=0.5).clamp(0.1, 0.5)
            left = left[length[left] > _SHORTEST_STEP]
        self._remember(new[0] - self.point, new[2] - self.gradient, moved)
        self.point, self.value, self.gradient = new
        return moved

    def _remember(self, step: Tensor, change: Tensor, moved: Tensor) -> None:
        curvature = (step * change).sum(-1)
        # A pair that says the function bends down, or nothing at all, would spoil the next directions.
        enough = torch.finfo(step.dtype).eps * change.square().sum(-1)
        keep = moved & (curvature > enough)
        weight = torch.where(keep, 1 / torch.where(keep, curvature, 1.0), 0.0)
        for memory, newest in ((self.steps, step), (self.changes, change), (self.weights, weight)):
            shifted = torch.cat([newest.unsqueeze(0), memory[:-1]])
            wanted = keep.unsqueeze(-1) if newest.dim() > 1 else keep
            memory.copy_(torch.where(wanted, shifted, memory))
        self.pairs = torch.where(keep, self.pairs + 1, self.pairs)

    def forget(self, rows: Tensor) -> None:
        """Let some problems begin anew with the steepest direction."""
        self.weights[:, rows] = 0
        self.pairs = torch.where(rows, 0, self.pairs)
