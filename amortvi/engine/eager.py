"""The reference step: model, guide, gradient and optimizer, one after the other in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amortvi._modes import random_state
from amortvi.engine.optimizers import needs_closure
from amortvi.engine.totals import Totals
from amortvi.engine.update import Differentiated, Estimation, Update
from amortvi.errors import NonFiniteError
from amortvi.objectives import Estimate
from amortvi.observations import Batch, Minibatch

__all__ = ["EagerEstimation", "EagerStep"]


class EagerStep:
    """One optimizer step on one minibatch; each number that matters is looked at before anything is updated.

    Args:
        update: what to compute.
    """

    def __init__(self, update: Update) -> None:
        self.update = update

    @property
    def totals(self) -> Totals:
        """What the epoch has summed so far."""
        return self.update.totals

    def begin(self) -> None:
        """Nothing to get ready."""

    def end(self) -> None:
        """Nothing to finish: every step was looked at."""

    def __call__(self, minibatch: Minibatch) -> None:
        """Update the parameters.

        Raises:
            NonFiniteError: the loss or a gradient is not finite; the parameters are then as before the call.
        """
        batch = minibatch.gather()
        if needs_closure(self.update.optimizer):
            self._line_search(batch)
        else:
            self.update.apply(self._checked(batch).gradients)

    def _line_search(self, batch: Batch) -> None:
        """Let the optimizer ask for the loss several times, and answer with the same draws."""
        seed = int(torch.randint(2**31, ()))
        sums = None

        def closure() -> float:
            nonlocal sums
            with random_state(seed, self.totals.sums.device):
                found = self._checked(batch)
            self.update.attach(found.gradients)
            if sums is None:
                sums = self.totals.sums.clone()
            return float(found.loss)

        self.update.step(closure)
        assert sums is not None
        self.totals.sums.copy_(sums)

    def _checked(self, batch: Batch) -> Differentiated:
        found = self.update.differentiate(batch)
        if not torch.isfinite(found.loss):
            raise NonFiniteError(f"the loss is {found.loss.item()}: {blame(found.estimate)}")
        self._check_gradients(found.gradients)
        return found

    def _check_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        norm = nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
        if torch.isfinite(norm):
            return
        names = {
            id(parameter): name
            for module in (self.update.model, self.update.guide)
            for name, parameter in module.named_parameters()
        }
        bad = [
            names[id(parameter)]
            for parameter, gradient in zip(self.update.parameters, gradients, strict=True)
            if gradient is not None and not torch.isfinite(gradient).all()
        ]
        raise NonFiniteError(f"the gradient is not finite for {', '.join(bad) or 'the sum of all parameters'}")


class EagerEstimation:
    """The objective on one minibatch, without an update.

    Args:
        estimation: what to compute.
    """

    def __init__(self, estimation: Estimation) -> None:
        self.estimation = estimation

    @property
    def totals(self) -> Totals:
        """What the pass has summed so far."""
        return self.estimation.totals

    def begin(self) -> None:
        """Nothing to get ready."""

    def end(self) -> None:
        """Nothing to finish."""

    def __call__(self, minibatch: Minibatch) -> None:
        """Estimate and count in."""
        self.estimation.count(minibatch.gather())


def blame(estimate: Estimate) -> str:
    """Say which terms of the objective are not finite, and for how many observations."""
    found = []
    for name, value in estimate.weights.parts().items():
        bad = ~torch.isfinite(value)
        if bad.any():
            found.append(f"{name} is not finite for {int(bad.sum())} of {bad.numel()} draws")
    return "; ".join(found) or "each term is finite, their sum is not"
