"""The fit loop: epochs over minibatches, validation, callbacks. Steps may be eager or compiled."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from amortvi._util.modes import evaluation_mode, restored_modes
from amortvi._util.random import Stream, derived_seed, random_state, random_state_here, reseed
from amortvi.data import Minibatch, Observations
from amortvi.errors import NonFiniteError
from amortvi.training.callbacks import Callback, ResumingCallback
from amortvi.training.convergence import Status
from amortvi.training.divergence import diverged
from amortvi.training.history import EpochRecord
from amortvi.training.modules import OptimizerSnapshot, Snapshot, TrainedModules, advance_schedule
from amortvi.training.options import FitOptions, Schedule
from amortvi.training.steps import Averages, FitSteps, LateNonFiniteError, Step
from amortvi.training.timetable import Timetable

__all__ = ["Loop"]

_CHECK_SIZE = 512
"""Observations per check of the data; running the model on many costs little more than on one."""


@dataclass
class Loop:
    """One fit, which its callbacks see as a `RunningFit`.

    Args:
        options: the options of the fit.
        first: the number of its first epoch.
        timetable: its phases.
        rates: the learning rates of the optimizer's parameter groups at the start.
        schedule: the user's learning-rate schedule, if any.
        fit_steps: what is trained, and how.
        train: the training data.
        validation: the validation data, if any.
        device: the device of the minibatches.
        history: the records of earlier fits, to which each epoch adds one.
        callbacks: what is called after steps and epochs, in this order; at the end, in reverse.
    """

    options: FitOptions
    first: int
    timetable: Timetable
    rates: list[float]
    schedule: Schedule | None
    fit_steps: FitSteps
    train: Observations
    validation: Observations | None
    device: torch.device
    history: list[EpochRecord]
    callbacks: Sequence[Callback]
    epoch: int = 0
    step: int = 0
    status: Status | None = None
    _objective_changed: bool = False
    _unlocked: float = 1.0
    _boundary: dict[str, Any] = field(default_factory=dict)
    _callback_states: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @property
    def modules(self) -> TrainedModules:
        """What is trained."""
        return self.fit_steps.update.modules

    @property
    def tensors(self) -> list[Tensor]:
        return self.modules.tensors

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer."""
        return self.fit_steps.update.optimizer

    @property
    def last_epoch(self) -> int:
        return self.first - 1 + self.timetable.epochs

    @cached_property
    def steps(self) -> int | None:  # for a data set, a loader is made to count them
        return self.train.steps(self.options.batch_size)

    def bound_so_far(self) -> float:
        return self.fit_steps.step.totals.read().elbo

    def stop(self, status: Status = "stopped") -> None:
        self.status = status

    def run(self) -> Status:
        """Train, and return how the fit ended; Ctrl-C keeps what was learned.

        Raises:
            TrainingDiverged: a loss or gradient is not finite; the parameters are then those of the last good epoch.
        """
        self.epoch = self.first
        self._mark_boundary()
        with restored_modes(*self.modules.modules):
            self.modules.train()
            self._check_data_in_memory()
            try:
                with contextlib.ExitStack() as ends:
                    try:
                        self._start(ends)
                        self._epochs()
                    except KeyboardInterrupt:
                        self.status = "interrupted"  # Ctrl-C is how a user ends a fit early, so it is not an error.
            finally:
                self.modules.network.family.settle()
        assert self.status is not None
        return self.status

    def _start(self, ends: contextlib.ExitStack) -> None:
        for callback in self.callbacks:
            if isinstance(callback, ResumingCallback):
                callback.resume(self)
        for callback in self.callbacks:
            callback.on_fit_start(self)
            ends.callback(callback.on_fit_end, self)
            # Callbacks may be added or left out when a fit is resumed, such as the progress bar.
            saved = next((each for each in self._callback_states if each[0] == type(callback).__name__), None)
            if saved is not None:
                self._callback_states.remove(saved)
                callback.load_state_dict(saved[1])

    def _epochs(self) -> None:
        begun = self.epoch
        while self.status is None and self.epoch <= self.last_epoch:
            # An interrupted epoch is undone in a checkpoint, and so is what callbacks have counted in it.
            self._boundary["callbacks"] = self._states_of_callbacks()
            self.history.append(self._epoch(is_first=self.epoch == begun))
            record = self.history[-1]
            bound = record.elbo if self.validation is None else record.validation_elbo
            self.timetable.record(bound, objective_changed=self._objective_changed)
            self._mark_boundary()
            for callback in self.callbacks:
                callback.on_epoch_end(self)
            self.epoch += 1
        self.status = self.status or self.timetable.status

    def state_dict(self) -> dict[str, Any]:
        """Return the state at the end of the last epoch, without that of model, network, optimizer and history."""
        return {
            "first": self.first,
            "status": self.status,
            "unlocked": self._unlocked,
            "timetable": self.timetable.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            **({} if "callbacks" in self._boundary else {"callbacks": self._states_of_callbacks()}),
            **self._boundary,
        }

    def _states_of_callbacks(self) -> list[tuple[str, dict[str, Any]]]:
        return [(type(callback).__name__, callback.state_dict()) for callback in self.callbacks]

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after an epoch whose state was saved, once the rest has been restored."""
        self.first, self.epoch, self._unlocked = state["first"], state["epoch"] + 1, state["unlocked"]
        self.timetable.load_state_dict(state["timetable"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self._callback_states = list(state["callbacks"])
        # What a callback has stopped can be continued; early stopping has ended a fit, whose last checkpoint may be missing.
        self.status = None if state["status"] == "stopped" else state["status"]
        self.fit_steps.load_state_dict(state["steps"])
        self.train.restore_random_state(state["data"])
        if self.epoch > self.first:
            # As the last step has left it, so that the next one does not change it unless it would have anyway.
            self.fit_steps.update.objective.advance(state["epoch"] - 1 / (self.steps or 1))
        self._mark_boundary()

    def _mark_boundary(self) -> None:
        """Keep what changes within an epoch and cannot be read from snapshots."""
        epoch = self.history[-1].epoch if self.history else 0
        self._boundary = {"epoch": epoch, "steps": self.fit_steps.state_dict(), "data": self.train.random_state()}

    def _check_data_in_memory(self) -> None:
        """Check data in memory before training; data of a loader are checked as they are read."""
        for observations in (self.train, self.validation):
            if observations is not None and observations.in_memory:
                for batch in observations.batches(max(self.options.batch_size or 0, _CHECK_SIZE)):
                    self.modules.model.check_data(batch.to(self.device))

    def _check_loaded(self, observations: Observations, minibatch: Minibatch) -> None:
        if not observations.in_memory:
            self.modules.model.check_data(minibatch.gather())

    def _epoch(self, *, is_first: bool) -> EpochRecord:
        start = time.perf_counter()
        self.step = 0
        with self.modules.model.program.own_parameters(), random_state(self.options.seed, self.device):
            with self._undone_on_error() as before:
                averages = self._trained(before, is_first=is_first)
                rate = float(self.optimizer.param_groups[0]["lr"])
                found = Averages() if self.validation is None else self._validate(self.validation, is_first=is_first)
            advance_schedule(self.schedule, averages.elbo if self.validation is None else found.elbo)
        return EpochRecord(self.epoch, *averages, *found, rate, time.perf_counter() - start)

    @contextlib.contextmanager
    def _undone_on_error(self) -> Iterator[Sequence[Snapshot | OptimizerSnapshot]]:
        """Undo the epoch after any error; Ctrl-C keeps its steps. Both are raised again."""
        before = self._snapshots()
        try:
            yield before
        except (Exception, KeyboardInterrupt, SystemExit) as error:
            keeps = not isinstance(error, Exception) and all(bool(each.isfinite().all()) for each in self.tensors)
            partial = self._snapshots() if keeps else []
            _restore(before)
            if isinstance(error, NonFiniteError):
                # The running averages may contain the gradients that caused the divergence.
                self.optimizer.state.clear()
            elif not isinstance(error, Exception):
                self.status = None  # also a request to stop after the epoch
                for callback in self.callbacks:
                    callback.on_interrupt(self)
                _restore(partial)
            raise

    def _snapshots(self) -> list[Snapshot | OptimizerSnapshot]:
        return [Snapshot(self.tensors), OptimizerSnapshot(self.optimizer)]

    def _trained(self, before: Sequence[Snapshot | OptimizerSnapshot], *, is_first: bool) -> Averages:
        """Train for one epoch; if a number is not finite, repeat it with the step that detects which."""
        restore_random_state = random_state_here()
        try:
            return self._train(self.fit_steps.step, is_first=is_first)
        except LateNonFiniteError:
            _restore(before)
            restore_random_state()
            return self._train(self.fit_steps.reference, is_first=is_first)

    def _train(self, step: Step, *, is_first: bool) -> Averages:
        reseed(derived_seed(self.options.seed, Stream.NOISE, self.epoch), self.device)
        self.step, self._objective_changed = 0, False
        steps, objective = self.steps, self.fit_steps.update.objective
        callbacks = [each for each in self.callbacks if type(each).on_step_end is not Callback.on_step_end]
        step.totals.clear()
        step.begin()
        for rows in self.train.shuffled(self.options.batch_size, self._shuffler()):
            minibatch = rows.to(self.device)
            if is_first:
                self._check_loaded(self.train, minibatch)
            within = 0.0 if steps is None else min(1.0, self.step / steps)
            self._set_rates(self.epoch - self.first + within)
            self._objective_changed |= objective.advance(self.epoch - 1 + within)
            try:
                step(minibatch)
            except NonFiniteError as error:
                if isinstance(error, LateNonFiniteError):
                    raise
                raise diverged(error, minibatch, self.train, self.epoch, self.step + 1) from error
            self.step += 1
            for callback in callbacks:
                callback.on_step_end(self)
        step.end()
        return step.totals.read()

    def _set_rates(self, time: float) -> None:
        """Set the learning rates for a time in epochs since the start of the fit."""
        unlocked = self.timetable.unlocked(time)
        if unlocked != self._unlocked:
            self.modules.network.family.unlock(unlocked)
            self._unlocked = unlocked
        if self.schedule is None:
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * self.timetable.rate(time)

    def _shuffler(self) -> torch.Generator:
        seed = derived_seed(self.options.seed, Stream.SHUFFLE, self.epoch)
        return torch.Generator().manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)

    def _validate(self, validation: Observations, *, is_first: bool) -> Averages:
        """Estimate the objective on the validation data, with the same draws after each epoch."""
        seed, step = derived_seed(self.options.seed or 0, Stream.VALIDATION), self.fit_steps.estimation
        with evaluation_mode(*self.modules.modules), random_state(seed, self.device):
            step.totals.clear()
            step.begin()
            for rows in validation.minibatches():
                minibatch = rows.to(self.device)
                if is_first:
                    self._check_loaded(validation, minibatch)
                step(minibatch)
            step.end()
            return step.totals.read()


def _restore(snapshots: Sequence[Snapshot | OptimizerSnapshot]) -> None:
    for snapshot in snapshots:
        snapshot.restore()
