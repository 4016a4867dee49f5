"""The reference step: objective, gradient and optimizer, one after the other in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from amortvi._util.random import random_state
from amortvi.compile import needs_closure
from amortvi.data import Batch, Minibatch
from amortvi.objectives import Estimate
from amortvi.training.steps.step import NonFiniteStepError, Totals
from amortvi.training.steps.update import Differentiated, Estimation, Update

__all__ = ["EagerEstimation", "EagerStep"]


class EagerStep:
    """One optimizer step on one minibatch; loss and gradients are checked before anything is updated."""

    def __init__(self, update: Update) -> None:
        self.update = update

    @property
    def totals(self) -> Totals:
        """The sums of the epoch so far."""
        return self.update.totals

    def begin(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing: each step has been checked."""

    def __call__(self, minibatch: Minibatch) -> None:
        """Update the parameters.

        Raises:
            NonFiniteError: the loss or a gradient is not finite; the parameters have not changed.
        """
        self.take(minibatch)

    def take(self, minibatch: Minibatch) -> Tensor:
        """Update the parameters, as a call does, and return the loss before the update."""
        batch = minibatch.gather()
        if needs_closure(self.update.optimizer):
            return self._line_search(batch)
        found = self._differentiate(batch)
        self.update.apply(found.gradients)
        return found.loss

    def _line_search(self, batch: Batch) -> Tensor:
        """Let the optimizer evaluate the loss several times, each time with the same draws, and return the first value."""
        seed = int(torch.randint(2**31, ()))
        sums = loss = None

        def closure() -> float:
            nonlocal sums, loss
            with random_state(seed, self.totals.sums.device):
                found = self._differentiate(batch)
            self.update.attach(found.gradients)
            if sums is None:
                sums, loss = self.totals.sums.clone(), found.loss
            return float(found.loss)

        self.update.step(closure)
        assert sums is not None
        assert loss is not None
        self.totals.sums.copy_(sums)
        return loss

    def _differentiate(self, batch: Batch) -> Differentiated:
        random = torch.get_rng_state()
        found = self.update.differentiate(batch)
        if not torch.isfinite(found.loss):
            terms = _non_finite_terms(found.estimate)
            described = "; ".join(f"{name} is not finite for {count} draws" for name, (count, _) in terms.items())
            raise NonFiniteStepError(
                f"the loss is {found.loss.item()}: {described or 'every term is finite, but their sum is not'}",
                found.estimate.weights.sites_of(terms),
                sorted({row for _, rows in terms.values() for row in rows}),
            )
        self._check_gradients(found.gradients, batch, random)
        return found

    def _check_gradients(self, gradients: Sequence[Tensor | None], batch: Batch, random: Tensor) -> None:
        norm = nn.utils.get_total_norm([gradient for gradient in gradients if gradient is not None])
        if torch.isfinite(norm):
            return
        names = self.update.modules.parameter_names()
        bad = [
            names[id(parameter)]
            for parameter, gradient in zip(self.update.parameters, gradients, strict=True)
            if gradient is not None and not torch.isfinite(gradient).all()
        ]
        raise NonFiniteStepError(
            f"the gradient is not finite for {', '.join(bad) or 'the sum of all parameters'}",
            rows=self._rows_with_bad_gradients(batch, random),
        )

    def _rows_with_bad_gradients(self, batch: Batch, random: Tensor) -> list[int]:
        """Return the observations whose draws have a gradient that is not finite, with the same random numbers once more."""
        torch.set_rng_state(random)
        with torch.enable_grad():
            estimate = self.update.estimate(batch)
            drawn = estimate.weights.drawn.vector
            loss = estimate.loss(self.update.observations)
            (gradient,) = torch.autograd.grad(loss, [drawn], allow_unused=True) if drawn.requires_grad else (None,)
        if gradient is None or gradient.shape[-2] != batch.size:
            return []
        finite = torch.isfinite(gradient).all(-1).reshape(-1, batch.size).all(0)
        return (~finite).nonzero()[:, 0].tolist()


class EagerEstimation:
    """The estimate of the objective on one minibatch, without an update."""

    def __init__(self, estimation: Estimation) -> None:
        self.estimation = estimation

    @property
    def totals(self) -> Totals:
        """The sums of the pass so far."""
        return self.estimation.totals

    def begin(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing."""

    def __call__(self, minibatch: Minibatch) -> None:
        """Estimate the objective and add it to the totals."""
        self.take(minibatch)

    def take(self, minibatch: Minibatch) -> Tensor:
        """Estimate the objective, add it to the totals, and return it."""
        return self.estimation.accumulate(minibatch.gather())


def _non_finite_terms(estimate: Estimate) -> dict[str, tuple[str, list[int]]]:
    """Return for each term that is not finite for how many draws that is, and the observations to which they belong."""
    found = {}
    for name, value in estimate.weights.terms().items():
        bad = ~torch.isfinite(value)
        if bad.any():
            rows = bad.reshape(-1, bad.shape[-1]).any(0).nonzero()[:, 0].tolist() if bad.dim() else []
            found[name] = f"{int(bad.sum())} of {bad.numel()}", rows
    return found
