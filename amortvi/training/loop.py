"""The fit loop: epochs over batches, validation, early stopping; it does not care which step it drives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from amortvi._modes import Stream, derived_seed, evaluation_mode, kept_modes, random_state, reseed
from amortvi.engine import Averages, FoundLateError, State, Step
from amortvi.errors import NonFiniteError
from amortvi.objectives import Objective
from amortvi.observations import Batch, Minibatch, Observations
from amortvi.training.early_stopping import EarlyStopping
from amortvi.training.history import EpochRecord
from amortvi.training.progress import Progress
from amortvi.training.snapshot import OptimizerSnapshot, Snapshot

__all__ = ["Loop", "Schedule", "Validation"]

_CHECKED_AT_ONCE = 512  # observations: a check runs the model once, and this many cost it little more than one

Schedule: TypeAlias = torch.optim.lr_scheduler.LRScheduler | torch.optim.lr_scheduler.ReduceLROnPlateau


@dataclass(frozen=True)
class Validation:
    """What is looked at after each epoch.

    Args:
        observations: the validation data.
        step: the objective without an update.
    """

    observations: Observations
    step: Step


@dataclass
class Loop:
    """One fit.

    Args:
        step: one update of the parameters.
        reference: the same, looking at every number: where ``step`` met one that is not finite, it finds out which.
        objective: what the steps climb; it is told how far the training is.
        steps: how many an epoch takes, or ``None`` if unknown.
        check: raises an error for a batch that the model cannot take; called in the first epoch.
        modules: model and guide.
        state: what is kept of them to go back to.
        training_modules: those of them that are trained, and so run in training mode; the others run in evaluation mode.
        optimizer: whose learning rate is recorded, and whose state is kept to go back to.
        schedule: called after each epoch, where there is one.
        train: the training data.
        validation: what is looked at after each epoch, where there are validation data.
        batch_size: observations a step.
        early_stopping: says when to stop, where it is wanted.
        device: where the batches go.
        seed: of the shuffling and the draws.
        progress: the bar.
    """

    step: Step
    reference: Step
    objective: Objective
    steps: int | None
    check: Callable[[Batch], None]
    modules: tuple[nn.Module, ...]
    state: State
    training_modules: tuple[nn.Module, ...]
    optimizer: torch.optim.Optimizer
    schedule: Schedule | None
    train: Observations
    validation: Validation | None
    batch_size: int | None
    early_stopping: EarlyStopping | None
    device: torch.device
    seed: int | None
    progress: Progress

    def run(self, first: int, last: int, keep: Callable[[EpochRecord], None]) -> None:
        """Train for the epochs ``first`` to ``last`` and give ``keep`` a record of each.

        Ctrl-C ends the fit after the operation it is in and keeps what was learned.

        Raises:
            NonFiniteError: a loss or gradient is not finite; the parameters are then those of the last good epoch.
        """
        try:
            with kept_modes(*self.modules), random_state(self.seed, self.device):
                for module in self.modules:
                    module.train(any(module is trained for trained in self.training_modules))
                self._check_what_is_in_memory()
                for number in range(first, last + 1):
                    record = self._epoch(number, new_data=number == first)
                    keep(record)
                    self.progress.epoch(number, record.elbo, record.validation_elbo)
                    if self.early_stopping is not None and self.early_stopping.is_done(record.validation_elbo):
                        break
        except KeyboardInterrupt:
            # The user has seen enough: a fit that was cut short is still a fit.
            pass
        finally:
            if self.early_stopping is not None:
                self.early_stopping.restore()

    def _check_what_is_in_memory(self) -> None:
        """Look at the data before anything is learned from them; those of a loader are looked at as they come."""
        all_of_them = [self.train] if self.validation is None else [self.train, self.validation.observations]
        for observations in all_of_them:
            if observations.in_memory:
                for batch in observations.batches(max(self.batch_size or 0, _CHECKED_AT_ONCE)):
                    self.check(batch.to(self.device))

    def _check_what_comes(self, observations: Observations, minibatch: Minibatch) -> None:
        if not observations.in_memory:
            self.check(minibatch.gather())

    def _epoch(self, number: int, *, new_data: bool) -> EpochRecord:
        start = time.perf_counter()
        good = Snapshot(self.state), OptimizerSnapshot(self.optimizer)
        random = torch.get_rng_state()
        try:
            try:
                averages = self._train(number, self.step, new_data=new_data)
            except FoundLateError:
                # The same epoch again, by the step that can tell which number it was.
                for snapshot in good:
                    snapshot.restore()
                torch.set_rng_state(random)
                averages = self._train(number, self.reference, new_data=new_data)
            learning_rate = float(self.optimizer.param_groups[0]["lr"])
            validation = Averages() if self.validation is None else self._validate(self.validation, new_data=new_data)
        except (Exception, KeyboardInterrupt) as error:
            # Whatever went wrong, the fit is as it was before this epoch; but who stops it keeps what is learned by then.
            if isinstance(error, Exception) or not self._is_finite():
                for snapshot in good:
                    snapshot.restore()
            if isinstance(error, NonFiniteError):
                # The averages of earlier epochs may already hold the gradients that led astray: they begin anew.
                self.optimizer.state.clear()
            raise
        self._schedule(averages.elbo if self.validation is None else validation.elbo)
        return EpochRecord(number, *averages, *validation, learning_rate, time.perf_counter() - start)

    def _train(self, number: int, step: Step, *, new_data: bool) -> Averages:
        reseed(derived_seed(self.seed, Stream.NOISE, number), self.device)
        with self._named(number) as at:
            step.totals.clear()
            step.begin()
            for at.position, rows in enumerate(self.train.shuffled(self.batch_size, self._shuffler(number)), start=1):
                minibatch = rows.to(self.device)
                if new_data:
                    self._check_what_comes(self.train, minibatch)
                self.objective.advance(self._passes(number, at.position))
                step(minibatch)
                self.progress.step()
            step.end()
            return step.totals.read()

    def _passes(self, epoch: int, position: int) -> float:
        """How often the data have been gone through before a step; within an epoch too, if its length is known."""
        within = 0.0 if self.steps is None else min(1.0, (position - 1) / self.steps)
        return epoch - 1 + within

    @contextmanager
    def _named(self, epoch: int) -> Iterator[_Position]:
        """Say in which epoch and step the training met a number that is not finite, and what to do."""
        at = _Position()
        try:
            yield at
        except FoundLateError:
            raise
        except NonFiniteError as error:
            raise NonFiniteError(
                f"training stopped at epoch {epoch}, step {at.position}: {error}. The parameters are back where they "
                f"were before epoch {epoch}. A smaller lr, gradient_clip=10, or data on a smaller scale helps most often."
            ) from error

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.state.tensors)

    def _shuffler(self, epoch: int) -> torch.Generator:
        generator = torch.Generator()
        seed = derived_seed(self.seed, Stream.SHUFFLE, epoch)
        return generator.manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)

    def _validate(self, validation: Validation, *, new_data: bool) -> Averages:
        """The objective on the validation data, with the same draws after each epoch, so that epochs compare."""
        seed, step = derived_seed(self.seed or 0, Stream.VALIDATION), validation.step
        with evaluation_mode(*self.modules), random_state(seed, self.device):
            step.totals.clear()
            step.begin()
            for batch in validation.observations.in_any_order():
                minibatch = Minibatch(batch.to(self.device))
                if new_data:
                    self._check_what_comes(validation.observations, minibatch)
                step(minibatch)
            step.end()
            return step.totals.read()

    def _schedule(self, elbo: float) -> None:
        if isinstance(self.schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.schedule.step(-elbo)
        elif self.schedule is not None:
            self.schedule.step()


@dataclass
class _Position:
    position: int = 0
