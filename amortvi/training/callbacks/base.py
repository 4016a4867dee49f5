"""The protocol of callbacks: what is called during a fit, and what a callback can see and do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from amortvi.training.convergence import Status
from amortvi.training.history import EpochRecord

if TYPE_CHECKING:
    from amortvi.training.options import FitOptions

__all__ = ["Callback", "ResumingCallback", "RunningFit"]


class RunningFit(Protocol):
    """A fit while it runs, as its callbacks see it."""

    @property
    def options(self) -> FitOptions:
        """The options of the fit."""

    @property
    def epoch(self) -> int:
        """The number of the current epoch, earlier fits included, from 1; after an epoch, its number."""

    @property
    def last_epoch(self) -> int:
        """The number of the last epoch of this fit, as far as it is known: a fit may end by itself."""

    @property
    def step(self) -> int:
        """The number of steps taken in the current epoch."""

    @property
    def steps(self) -> int | None:
        """The number of steps per epoch; ``None`` if it is unknown."""

    @property
    def history(self) -> Sequence[EpochRecord]:
        """The records of all epochs so far, earlier fits included."""

    @property
    def status(self) -> Status | None:
        """How the fit has ended; ``None`` while it runs, and after an error."""

    @property
    def tensors(self) -> Sequence[Tensor]:
        """All parameters and buffers of model and inference network; a callback may read them, or copy values into them."""

    def bound_so_far(self) -> float:
        """Return the mean of the objective over the steps of the current epoch, in nats per observation.

        This waits for the device, so it makes steps slower if it is called after each of them.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint contains besides model, posterior, optimizer and history."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint, once the rest has been restored."""

    def stop(self, status: Status = "stopped") -> None:
        """End the fit at the end of the current epoch."""


class Callback:
    """Base class of callbacks: override the methods that are needed. ``fit(callbacks=[...])`` calls them in the given order.

    An exception that a callback raises ends the fit. If it is raised during an epoch, the epoch is undone.

    Example:
        >>> import torch, amortvi as avi
        >>> class StopAbove(avi.callbacks.Callback):
        ...     def __init__(self, bound):
        ...         self.bound = bound
        ...
        ...     def on_epoch_end(self, fit):
        ...         if fit.history[-1].elbo > self.bound:
        ...             fit.stop()
        >>> model = avi.models.LinearGaussian(torch.ones(3, 1), scale=1.0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(3), "full", freeze_model=True)
        >>> vi = vi.fit(model.simulate(50, seed=0), callbacks=[StopAbove(-1e6)], seed=0, progress=False)
        >>> len(vi.history), vi.status
        (1, 'stopped')
    """

    def on_fit_start(self, fit: RunningFit) -> None:
        """Called once, before the first epoch; a fit that is resumed has its history by then."""

    def on_step_end(self, fit: RunningFit) -> None:
        """Called after each step."""

    def on_epoch_end(self, fit: RunningFit) -> None:
        """Called after each epoch, when its record is the last of ``fit.history``."""

    def on_interrupt(self, fit: RunningFit) -> None:
        """Called if Ctrl-C or a signal interrupts an epoch, with the parameters from before that epoch."""

    def on_fit_end(self, fit: RunningFit) -> None:
        """Called once at the end, also after an error."""

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must contain to resume: numbers, strings, tensors, and lists and dicts of these."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` has returned."""


class ResumingCallback(Callback):
    """A callback that may restore an earlier state of a fit before anything else is called."""

    def resume(self, fit: RunningFit) -> None:
        """Restore the state from which the fit continues, if there is one."""
