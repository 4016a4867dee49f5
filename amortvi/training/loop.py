"""The fit loop: epochs over minibatches, validation, early stopping. Steps may be eager or compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from amortvi._util.modes import evaluation_mode, restored_modes
from amortvi._util.random import Stream, derived_seed, random_state, reseed
from amortvi.data import Minibatch, Observations
from amortvi.errors import NonFiniteError
from amortvi.training.convergence import Status
from amortvi.training.early_stopping import EarlyStopping
from amortvi.training.history import EpochRecord, Progress
from amortvi.training.modules import OptimizerSnapshot, Snapshot, TrainedModules
from amortvi.training.options import FitOptions, Schedule
from amortvi.training.steps import Averages, FitSteps, LateNonFiniteError, Step
from amortvi.training.timetable import Timetable

__all__ = ["Loop"]

_CHECK_SIZE = 512
"""Observations per check of the data; running the model on many costs little more than on one."""


@dataclass
class Loop:
    """One fit.

    Args:
        options: the options of the fit.
        first: the number of its first epoch.
        timetable: its phases.
        rates: the learning rates of the optimizer's parameter groups at the start.
        schedule: the user's learning-rate schedule, if any.
        steps: what is trained, and how.
        train: the training data.
        validation: the validation data, if any.
        device: the device of the minibatches.

    Attributes:
        best_epoch: the epoch whose parameters were restored at the end, or 0.
    """

    options: FitOptions
    first: int
    timetable: Timetable
    rates: list[float]
    schedule: Schedule | None
    steps: FitSteps
    train: Observations
    validation: Observations | None
    device: torch.device
    best_epoch: int = 0
    _objective_changed: bool = False
    _unlocked: float = 1.0

    @property
    def modules(self) -> TrainedModules:
        """What is trained."""
        return self.steps.update.modules

    def run(self, record: Callable[[EpochRecord], None]) -> Status:
        """Train, call ``record`` after each epoch, and return how the fit ended; Ctrl-C keeps what was learned.

        Raises:
            NonFiniteError: a loss or gradient is not finite; the parameters are then those of the last good epoch.
        """
        patience = self.options.patience
        early_stopping = None if patience is None else EarlyStopping(patience, self.modules.tensors)
        steps = self.train.steps(self.options.batch_size)
        bar = Progress(self.timetable.epochs, steps, visible=self.options.progress)
        try:
            with bar, restored_modes(*self.modules.modules), random_state(self.options.seed, self.device):
                self.modules.train()
                self._check_data_in_memory()
                number = self.first
                while number < self.first + self.timetable.epochs:
                    epoch = self._epoch(number, bar, steps, is_first=number == self.first)
                    record(epoch)
                    bound = epoch.elbo if self.validation is None else epoch.validation_elbo
                    self.timetable.record(bound, objective_changed=self._objective_changed)
                    bar.epoch(number, self.timetable.epochs, epoch.elbo, epoch.validation_elbo)
                    if early_stopping is not None and early_stopping.should_stop(number, epoch.validation_elbo):
                        return "stopped early"
                    number += 1
        except KeyboardInterrupt:
            return "interrupted"  # Ctrl-C is how a user ends a fit early, so it is not an error.
        finally:
            if early_stopping is not None:
                early_stopping.restore()
                self.best_epoch = early_stopping.best_epoch
            self.modules.network.family.settle()
        return self.timetable.status

    def _check_data_in_memory(self) -> None:
        """Check data in memory before training; data of a loader are checked as they are read."""
        for observations in (self.train, self.validation):
            if observations is not None and observations.in_memory:
                for batch in observations.batches(max(self.options.batch_size or 0, _CHECK_SIZE)):
                    self.modules.model.check_data(batch.to(self.device))

    def _check_loaded(self, observations: Observations, minibatch: Minibatch) -> None:
        if not observations.in_memory:
            self.modules.model.check_data(minibatch.gather())

    def _epoch(self, number: int, bar: Progress, steps: int | None, *, is_first: bool) -> EpochRecord:
        start = time.perf_counter()
        before = Snapshot(self.modules.tensors), OptimizerSnapshot(self.steps.update.optimizer)
        random = torch.get_rng_state()
        try:
            try:
                averages = self._train(number, self.steps.step, bar, steps, is_first=is_first)
            except LateNonFiniteError:
                # Repeat the epoch with the step that detects which number was not finite.
                for snapshot in before:
                    snapshot.restore()
                torch.set_rng_state(random)
                averages = self._train(number, self.steps.reference, bar, steps, is_first=is_first)
            learning_rate = float(self.steps.update.optimizer.param_groups[0]["lr"])
            validation = Averages() if self.validation is None else self._validate(self.validation, is_first=is_first)
        except (Exception, KeyboardInterrupt) as error:
            # Any error undoes this epoch, whatever its cause; Ctrl-C keeps the steps of this epoch. Both are raised again.
            if isinstance(error, Exception) or not self._is_finite():
                for snapshot in before:
                    snapshot.restore()
            if isinstance(error, NonFiniteError):
                # The running averages may contain the gradients that caused the divergence.
                self.steps.update.optimizer.state.clear()
            raise
        self._advance_schedule(averages.elbo if self.validation is None else validation.elbo)
        return EpochRecord(number, *averages, *validation, learning_rate, time.perf_counter() - start)

    def _train(self, number: int, step: Step, bar: Progress, steps: int | None, *, is_first: bool) -> Averages:
        reseed(derived_seed(self.options.seed, Stream.NOISE, number), self.device)
        position, self._objective_changed = 0, False
        try:
            step.totals.clear()
            step.begin()
            minibatches = self.train.shuffled(self.options.batch_size, self._shuffler(number))
            for position, rows in enumerate(minibatches, start=1):
                minibatch = rows.to(self.device)
                if is_first:
                    self._check_loaded(self.train, minibatch)
                within = 0.0 if steps is None else min(1.0, (position - 1) / steps)
                self._set_rates(number - self.first + within)
                self._objective_changed |= self.steps.update.objective.advance(number - 1 + within)
                step(minibatch)
                bar.step()
            step.end()
            return step.totals.read()
        except LateNonFiniteError:
            raise
        except NonFiniteError as error:
            raise NonFiniteError(
                f"training stopped at epoch {number}, step {position}: {error}. The parameters are those before epoch "
                f"{number}. A smaller lr or gradient_clip, or data on a smaller scale usually helps."
            ) from error

    def _set_rates(self, time: float) -> None:
        """Set the learning rates for a time in epochs since the start of the fit."""
        unlocked = self.timetable.unlocked(time)
        if unlocked != self._unlocked:
            self.modules.network.family.unlock(unlocked)
            self._unlocked = unlocked
        if self.schedule is None:
            for group, rate in zip(self.steps.update.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * self.timetable.rate(time)

    def _is_finite(self) -> bool:
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.modules.tensors)

    def _shuffler(self, epoch: int) -> torch.Generator:
        seed = derived_seed(self.options.seed, Stream.SHUFFLE, epoch)
        return torch.Generator().manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)

    def _validate(self, validation: Observations, *, is_first: bool) -> Averages:
        """Estimate the objective on the validation data, with the same draws after each epoch."""
        seed, step = derived_seed(self.options.seed or 0, Stream.VALIDATION), self.steps.estimation
        with evaluation_mode(*self.modules.modules), random_state(seed, self.device):
            step.totals.clear()
            step.begin()
            for batch in validation.in_any_order():
                minibatch = Minibatch(batch.to(self.device))
                if is_first:
                    self._check_loaded(validation, minibatch)
                step(minibatch)
            step.end()
            return step.totals.read()

    def _advance_schedule(self, elbo: float) -> None:
        if isinstance(self.schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.schedule.step(-elbo)
        elif self.schedule is not None:
            self.schedule.step()
