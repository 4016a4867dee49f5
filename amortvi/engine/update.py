"""What one training step computes, whichever engine runs it: objective, gradient, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from amortvi.engine.state import State
from amortvi.engine.totals import Totals
from amortvi.generative import GenerativeModel
from amortvi.guide import AmortizedGuide
from amortvi.objectives import Estimate, Objective
from amortvi.observations import Batch

__all__ = ["Differentiated", "Estimation", "Update"]


@dataclass
class Estimation:
    """The objective on a batch, without an update.

    Args:
        model: the generative model.
        guide: a guide that is set up.
        state: the submodules and tensors of both.
        objective: the bound.
        observations: the size of the data set, or ``None`` if it is unknown.
        totals: where the estimate is counted in.
    """

    model: GenerativeModel
    guide: AmortizedGuide
    state: State
    objective: Objective
    observations: int | None
    totals: Totals

    def count(self, batch: Batch) -> None:
        """Estimate and count in."""
        with torch.no_grad():
            self.totals.add(self.estimate(batch), self.observations)

    def estimate(self, batch: Batch) -> Estimate:
        """Return the objective's estimate."""
        # Distributions check their arguments at the price of a third of the step; the data are checked once, by others.
        with pyro.validation_enabled(False):
            return self.objective.estimate(self.model, self.guide, batch)

    def is_like(self, other: Estimation) -> bool:
        """Whether ``other`` computes the same from the same tensors, so that what was compiled for it serves here."""
        mine, theirs = vars(self), vars(other)
        return type(self) is type(other) and all(_alike(mine[name], theirs[name]) for name in mine)

    def fingerprint(self) -> Hashable:
        """Return what a recording holds for only as long as it does not change: tensors by place, and modes."""
        modes = tuple(part.training for part in self.state.parts)
        return places([*self.state.tensors, self.totals.sums]), modes


def _alike(a: Any, b: Any) -> bool:
    if isinstance(a, Totals):
        return isinstance(b, Totals) and a.sums.device == b.sums.device
    if isinstance(a, State):
        return True  # the list of another fit; whether the tensors are the same is for the fingerprint to say
    if isinstance(a, Objective):
        return a is b or (type(a) is type(b) and _same_options(vars(a), vars(b)))
    if isinstance(a, list):
        return len(a) == len(b) and all(x is y for x, y in zip(a, b, strict=True))
    return a is b or (isinstance(a, int | float) and a == b)


def _same_options(a: dict[str, Any], b: dict[str, Any]) -> bool:
    plain = (int, float, str, bool, type(None))
    return a.keys() == b.keys() and all(a[k] is b[k] or (isinstance(a[k], plain) and a[k] == b[k]) for k in a)


def places(tensors: Sequence[Tensor]) -> Hashable:
    """Return what tells whether these are the same tensors in the same memory."""
    return tuple((id(t), t.data_ptr(), t.shape, t.dtype, t.requires_grad) for t in tensors)


@dataclass(frozen=True)
class Differentiated:
    """The objective on a batch and its gradient.

    Args:
        estimate: the objective.
        loss: what is minimised.
        gradients: for each parameter, ``None`` where the loss does not depend on it.
    """

    estimate: Estimate
    loss: Tensor
    gradients: Sequence[Tensor | None]


@dataclass
class Update(Estimation):
    """One update of the parameters.

    Args:
        optimizer: over ``parameters``.
        parameters: what is trained.
        gradient_clip: the largest norm of the gradient, or ``None``.
    """

    optimizer: torch.optim.Optimizer
    parameters: Sequence[nn.Parameter]
    gradient_clip: float | None

    def differentiate(self, batch: Batch) -> Differentiated:
        """Estimate the objective, count it in, and take its gradient."""
        with torch.enable_grad():
            estimate = self.estimate(batch)
            loss = estimate.loss(self.observations)
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        self.totals.add(estimate, self.observations)
        return Differentiated(estimate, loss.detach(), gradients)

    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        """Clip the gradient and take the optimizer's step."""
        self.attach(gradients)
        self.step()

    def attach(self, gradients: Sequence[Tensor | None]) -> None:
        """Clip the gradient and leave it on the parameters."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.gradient_clip is not None:
            norm = nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
            nn.utils.clip_grads_with_norm_(self.parameters, self.gradient_clip, norm)

    def step(self, *closure: Callable[[], float]) -> None:
        """Take the optimizer's step with the gradient that was left, and forget the gradient.

        Args:
            closure: leaves the gradient and returns the loss, for an optimizer that asks for them itself.
        """
        self.optimizer.step(*closure)
        self.optimizer.zero_grad(set_to_none=True)
