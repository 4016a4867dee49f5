"""The fit loop: epochs over batches, validation, early stopping; it does not care which step it drives."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import pyro
import torch
from torch import nn

from amortvi._modes import Stream, derived_seed, evaluation_mode, kept_modes, random_state
from amortvi.engine import Metrics, Step
from amortvi.errors import NonFiniteError
from amortvi.objectives import Estimate
from amortvi.observations import Batch, Observations
from amortvi.training.early_stopping import EarlyStopping
from amortvi.training.history import Averages, EpochRecord
from amortvi.training.progress import Progress
from amortvi.training.snapshot import Snapshot

__all__ = ["Loop", "Schedule"]


Schedule: TypeAlias = torch.optim.lr_scheduler.LRScheduler | torch.optim.lr_scheduler.ReduceLROnPlateau


@dataclass
class Loop:
    """One fit.

    Args:
        step: one update of the parameters.
        estimate: the objective on a batch, without an update, for the validation data.
        check: raises an error for a batch that the model cannot take; called in the first epoch.
        modules: model and guide, whose parameters are kept to go back to.
        training_modules: those of them that are trained, and so run in training mode; the others run in evaluation mode.
        optimizer: whose learning rate is recorded.
        schedule: called after each epoch, where there is one.
        train: the training data.
        validation: the validation data, where there are some.
        batch_size: observations a step.
        early_stopping: says when to stop, where it is wanted.
        device: where the batches go.
        seed: of the shuffling and the draws.
        progress: the bar.
    """

    step: Step
    estimate: Callable[[Batch], Estimate]
    check: Callable[[Batch], None]
    modules: tuple[nn.Module, ...]
    training_modules: tuple[nn.Module, ...]
    optimizer: torch.optim.Optimizer
    schedule: Schedule | None
    train: Observations
    validation: Observations | None
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
            with kept_modes(*self.modules):
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

    def _epoch(self, number: int, *, new_data: bool) -> EpochRecord:
        good = Snapshot(*self.modules)
        try:
            return self._train_and_validate(number, new_data)
        except Exception:
            # Whatever went wrong, the fit is as it was before this epoch; a running average of the optimizer may hold the
            # gradients that led astray, so it begins anew.
            good.restore()
            self.optimizer.state.clear()
            self.optimizer.zero_grad(set_to_none=True)
            raise

    def _train_and_validate(self, number: int, new_data: bool) -> EpochRecord:
        start = time.perf_counter()
        averages = Averages()
        for module in self.modules:
            module.train(any(module is trained for trained in self.training_modules))
        with random_state(derived_seed(self.seed, Stream.NOISE, number), self.device):
            for position, rows in enumerate(self.train.shuffled(self.batch_size, self._shuffler(number)), start=1):
                batch = rows.to(self.device)
                if new_data:
                    self.check(batch)
                try:
                    averages.add(self.step(batch))
                except NonFiniteError as error:
                    raise NonFiniteError(
                        f"training stopped at epoch {number}, step {position}: {error}. The parameters are back where they "
                        f"were before epoch {number}. A smaller lr, gradient_clip=10, or data on a smaller scale helps most "
                        f"often."
                    ) from error
                self.progress.step()
        learning_rate = float(self.optimizer.param_groups[0]["lr"])
        elbo, reconstruction, kl = averages.read()
        validation = self._validate(new_data).read() if self.validation is not None else Averages().read()
        self._schedule(validation[0] if self.validation is not None else elbo)
        return EpochRecord(number, elbo, reconstruction, kl, *validation, learning_rate, time.perf_counter() - start)

    def _shuffler(self, epoch: int) -> torch.Generator:
        generator = torch.Generator()
        seed = derived_seed(self.seed, Stream.SHUFFLE, epoch)
        return generator.manual_seed(int(torch.randint(2**62, ())) if seed is None else seed)

    def _validate(self, new_data: bool) -> Averages:
        """The objective on the validation data, with the same draws after each epoch, so that epochs compare."""
        assert self.validation is not None
        averages = Averages()
        seed = derived_seed(self.seed or 0, Stream.VALIDATION)
        with (
            torch.no_grad(),
            evaluation_mode(*self.modules),
            pyro.validation_enabled(False),
            random_state(seed, self.device),
        ):
            for rows in self.validation.in_any_order():
                batch = rows.to(self.device)
                if new_data:
                    self.check(batch)
                estimate = self.estimate(batch)
                averages.add(
                    Metrics(
                        estimate.elbo(self.validation.size),
                        estimate.weights.reconstruction.mean(),
                        estimate.weights.kl.mean(),
                        batch.size,
                    )
                )
        return averages

    def _schedule(self, elbo: float) -> None:
        if isinstance(self.schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.schedule.step(-elbo)
        elif self.schedule is not None:
            self.schedule.step()
