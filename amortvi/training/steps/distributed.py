"""Steps of which several processes take one together: each computes its share of the minibatch, and the gradients are summed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from amortvi._util.random import Share, SharedStream
from amortvi.data import Batch, Minibatch
from amortvi.training.distributed import Group, Place
from amortvi.training.steps.eager import EagerEstimation, EagerStep
from amortvi.training.steps.step import NonFiniteStepError, Totals
from amortvi.training.steps.update import Estimation, Update

__all__ = ["DistributedEstimation", "DistributedStep"]


class DistributedStep(EagerStep):
    """One optimizer step on one minibatch, equal in all processes.

    The loss is a mean over the minibatch, so the gradient is the mean of those of the processes, weighted by their numbers of
    observations.

    Args:
        update: what to compute.
        group: the processes.
    """

    def __init__(self, update: Update, group: Group) -> None:
        super().__init__(update)
        device = update.totals.sums.device
        self._group, self._stream = group, SharedStream(group.rank, device)
        self._totals = Totals(device)  # of all processes; those of the update are of this one

    @property
    def totals(self) -> Totals:
        """The sums of the epoch so far, over all processes."""
        return self._totals

    def begin(self) -> None:
        """Divide the random numbers."""
        self._stream.begin()

    def take(self, minibatch: Minibatch) -> Tensor:
        """Update the parameters, as a call does, and return the loss of this process before the update."""
        share = minibatch.share
        assert share is not None
        self.update.totals.clear()
        try:
            with self._stream.sharing(share):
                found = self._differentiate(minibatch.gather())
        except Exception as error:  # for which the other processes must not wait
            if isinstance(error, NonFiniteStepError):
                error.rows = [share.start + row for row in error.rows]
            self._group.agree(Place.STEP, error)
            raise
        self._group.agree(Place.STEP)
        self.update.apply(self._summed(found.gradients, share))
        return found.loss

    def _summed(self, gradients: Sequence[Tensor | None], share: Share) -> list[Tensor | None]:
        """Return the gradients of the minibatch, and add its totals, all in one exchange."""
        own = [
            torch.zeros_like(parameter) if gradient is None else share.weight * gradient
            for parameter, gradient in zip(self.update.parameters, gradients, strict=True)
        ]
        sums = self.update.totals.sums * (share.weight > 0)
        exist = torch.tensor([gradient is not None for gradient in gradients], device=sums.device)
        dtype = torch.float64 if any(each.dtype == torch.float64 for each in own) else torch.float32
        flat = torch.cat([each.reshape(-1).to(dtype) for each in (*own, sums, exist)])
        self._group.sum(flat)
        *found, total, present = flat.split([each.numel() for each in (*own, sums, exist)])
        self._totals.sums.add_(total)
        return [
            gradient.view_as(parameter).to(parameter.dtype) if processes else None
            for gradient, parameter, processes in zip(found, self.update.parameters, present.tolist(), strict=True)
        ]

    def _rows_with_bad_gradients(self, batch: Batch, random: Tensor) -> list[int]:
        self._stream.rewind()
        return super()._rows_with_bad_gradients(batch, random)


class DistributedEstimation(EagerEstimation):
    """The estimate of the objective on the minibatches of a pass, of which each process computes its share.

    Args:
        estimation: what to compute.
        group: the processes.
    """

    def __init__(self, estimation: Estimation, group: Group) -> None:
        super().__init__(estimation)
        self._group, self._stream = group, SharedStream(group.rank, self.totals.sums.device)

    def begin(self) -> None:
        """Divide the random numbers."""
        self._stream.begin()

    def take(self, minibatch: Minibatch) -> Tensor:
        """Estimate the objective on the share of this process, add it to the totals, and return it."""
        share, sums = minibatch.share, self.totals.sums
        assert share is not None
        before = sums.clone()
        with self._stream.sharing(share):
            estimate = self.estimation.accumulate(minibatch.gather())
        if not share.weight:
            sums.copy_(before)
        return estimate

    def end(self) -> None:
        """Add the totals of the processes."""
        self._group.agree(Place.VALIDATION)
        self._group.sum(self.totals.sums)
