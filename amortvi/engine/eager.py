"""The reference step: model, guide, gradient and optimizer, one after the other in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn

from amortvi._modes import random_state
from amortvi.engine.step import Metrics
from amortvi.errors import NonFiniteError
from amortvi.generative import GenerativeModel
from amortvi.guide import AmortizedGuide
from amortvi.objectives import Estimate, Objective
from amortvi.observations import Batch

__all__ = ["EagerStep"]


class EagerStep:
    """One optimizer step on one batch.

    Args:
        model: the generative model.
        guide: a guide that is set up.
        objective: the bound to climb.
        optimizer: over ``parameters``.
        parameters: what is trained.
        observations: the size of the data set, or ``None`` if it is unknown.
        gradient_clip: the largest norm of the gradient, or ``None``.
    """

    def __init__(
        self,
        model: GenerativeModel,
        guide: AmortizedGuide,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[nn.Parameter],
        *,
        observations: int | None,
        gradient_clip: float | None,
    ) -> None:
        self.model = model
        self.guide = guide
        self.objective = objective
        self.optimizer = optimizer
        self.parameters = list(parameters)
        self.observations = observations
        self.gradient_clip = gradient_clip

    def __call__(self, batch: Batch) -> Metrics:
        """Update the parameters from ``batch``.

        Raises:
            NonFiniteError: the loss or a gradient is not finite; nothing was updated.
        """
        first: Metrics | None = None
        # An optimizer with a line search asks for the loss several times, and must be answered with the same draws.
        repeats = isinstance(self.optimizer, torch.optim.LBFGS)
        seed = int(torch.randint(2**31, ())) if repeats else None

        def closure() -> float:
            nonlocal first
            with random_state(seed, self.parameters[0].device):
                metrics = self._differentiate(batch)
            first = first or metrics
            return -float(metrics.elbo)

        self.optimizer.step(closure)
        self.optimizer.zero_grad(set_to_none=True)
        assert first is not None
        return first

    def _differentiate(self, batch: Batch) -> Metrics:
        """Estimate the objective and leave its gradient on the parameters."""
        # Distributions check their arguments at the price of a third of the step; the example was checked when the guide
        # was set up, and what is not finite is found below.
        with torch.enable_grad(), pyro.validation_enabled(False):
            estimate = self.objective.estimate(self.model, self.guide, batch)
            loss = estimate.loss(self.observations)
            if not torch.isfinite(loss):
                raise NonFiniteError(f"the loss is {loss.item()}: {blame(estimate)}")
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
        norm = self._checked_norm(gradients)
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient
        if self.gradient_clip is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, self.gradient_clip, norm)
        weights = estimate.weights
        return Metrics(
            elbo=-loss.detach(),
            reconstruction=weights.reconstruction.detach().mean(),
            kl=weights.kl.detach().mean(),
            observations=batch.size,
        )

    def _checked_norm(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Return the norm of all gradients together."""
        present = [gradient for gradient in gradients if gradient is not None]
        norm = nn.utils.get_total_norm(present)
        if not torch.isfinite(norm):
            names = {
                id(parameter): name
                for module in (self.model, self.guide)
                for name, parameter in module.named_parameters()
            }
            bad = [
                names[id(parameter)]
                for parameter, gradient in zip(self.parameters, gradients, strict=True)
                if gradient is not None and not torch.isfinite(gradient).all()
            ]
            raise NonFiniteError(f"the gradient is not finite for {', '.join(bad) or 'the sum of all parameters'}")
        return norm


def blame(estimate: Estimate) -> str:
    """Say which terms of the objective are not finite, and for how many observations."""
    found = []
    for name, value in estimate.weights.parts().items():
        bad = ~torch.isfinite(value)
        if bad.any():
            found.append(f"{name} is not finite for {int(bad.sum())} of {bad.numel()} draws")
    return "; ".join(found) or "each term is finite, their sum is not"
