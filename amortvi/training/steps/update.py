"""What a training step computes, eager or compiled: objective, gradient, clipping, optimizer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor, nn

from amortvi.compile import memory_of, take_step
from amortvi.data import Batch
from amortvi.objectives import Estimate, Objective
from amortvi.training.modules import TrainedModules
from amortvi.training.steps.step import Totals

__all__ = ["Differentiated", "Estimation", "Update"]


@dataclass
class Estimation:
    """The estimate of the objective on a batch, without an update.

    Args:
        modules: model and inference network.
        objective: the bound.
        observations: the size of the data set, or ``None`` if unknown.
        totals: the sums to which the estimate is added.
    """

    modules: TrainedModules
    objective: Objective
    observations: int | None
    totals: Totals

    def accumulate(self, batch: Batch) -> Tensor:
        """Estimate the objective, add it to the totals, and return it."""
        with torch.no_grad():
            estimate = self.estimate(batch)
            self.totals.add(estimate, self.observations)
            return estimate.elbo(self.observations)

    def estimate(self, batch: Batch) -> Estimate:
        """Return the estimate of the objective."""
        # Validation by the distributions takes a third of a step; the data are checked once, before training.
        with pyro.validation_enabled(False):
            return self.objective.estimate(self.modules.model, self.modules.network, batch)

    def fingerprint(self) -> Hashable:
        """Return a key that changes if a recording becomes invalid: the memory of tensors, and the modes of modules."""
        modes = tuple(part.training for part in self.modules.parts)
        return memory_of([*self.modules.tensors, self.totals.sums]), modes


@dataclass(frozen=True)
class Differentiated:
    """The objective on a batch, and its gradient.

    Args:
        estimate: the objective.
        loss: the quantity that is minimized.
        gradients: one for each parameter; ``None`` if the loss does not depend on it.
    """

    estimate: Estimate
    loss: Tensor
    gradients: Sequence[Tensor | None]


@dataclass
class Update(Estimation):
    """One update of the parameters.

    Args:
        optimizer: the optimizer of ``parameters``.
        parameters: the trained parameters.
        gradient_clip: the largest norm of the gradient, or ``None``.
    """

    optimizer: torch.optim.Optimizer
    parameters: list[nn.Parameter]
    gradient_clip: float | None

    def differentiate(self, batch: Batch) -> Differentiated:
        """Estimate the objective, add it to the totals, and compute its gradient."""
        with torch.enable_grad():
            estimate = self.estimate(batch)
            loss = estimate.loss(self.observations)
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        self.totals.add(estimate, self.observations)
        return Differentiated(estimate, loss.detach(), gradients)

    def apply(self, gradients: Sequence[Tensor | None]) -> None:
        """Clip the gradient and take an optimizer step."""
        self.attach(gradients)
        self.step()

    def attach(self, gradients: Sequence[Tensor | None]) -> None:
        """Clip the gradient and store it in the parameters."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.gradient_clip is not None:
            norm = nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
            nn.utils.clip_grads_with_norm_(self.parameters, self.gradient_clip, norm)

    def step(self, *closure: Callable[[], float]) -> None:
        """Take an optimizer step with the attached gradient, then remove the gradient.

        Args:
            closure: attaches the gradient and returns the loss, for an optimizer that evaluates the loss itself.
        """
        take_step(self.optimizer, *closure)
        # Not by `zero_grad`, whose first call imports torch._dynamo.
        for parameter in self.parameters:
            parameter.grad = None
