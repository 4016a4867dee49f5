"""The state that persists between fits: optimizer, history and compiled steps."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import torch

from amortvi.compile import fuse, place_optimizer_state, without_dynamo
from amortvi.data import Observations
from amortvi.errors import DataError, OptionError
from amortvi.model import Model
from amortvi.objectives import make_objective
from amortvi.posterior import InferenceNetwork
from amortvi.training.callbacks import Callback, EarlyStopping, ProgressBar
from amortvi.training.convergence import Convergence, Status
from amortvi.training.distributed import ALONE, Group, Synchronization, describe_call
from amortvi.training.history import EpochRecord
from amortvi.training.learning_curve import FEWEST_EPOCHS
from amortvi.training.loop import Loop
from amortvi.training.modules import TrainedModules, load_optimizer_state
from amortvi.training.options import FitOptions, OptimizerFactory, Schedule, ScheduleFactory
from amortvi.training.steps import FitSteps, Totals, Update
from amortvi.training.timetable import Timetable

__all__ = ["OptimizerState", "Trainer"]

_BUDGET = 20_000
"""The steps after which a fit ends that has not converged."""
_FEWEST_EPOCHS = 10
"""The epochs of the budget for data so large that the steps of the budget are fewer."""
_FEWEST_STEPS = 1_000
"""The steps before the learning curve is judged: a bound may be flat before it rises."""
_UNKNOWN_STEPS = 200
"""The steps per epoch that are assumed for a loader of unknown length."""


class OptimizerState(TypedDict):
    """The state of an optimizer, with the name of its class."""

    kind: str
    state: dict[str, Any]


@dataclass
class Trainer:
    """The training of one inference network, and of its model unless that is frozen.

    Args:
        model: the generative model.
        network: the inference network.
        freeze_model: whether only the network is trained.
        records: the history.
        convergence: how the last fit ended; ``None`` before the first.
    """

    model: Model
    network: InferenceNetwork
    freeze_model: bool
    records: list[EpochRecord] = field(default_factory=list)
    convergence: Convergence | None = None
    _optimizer: torch.optim.Optimizer | None = None
    _factory: OptimizerFactory | None = None
    _relative_rates: list[float] = field(default_factory=list)
    _saved_state: OptimizerState | None = None
    _steps: FitSteps | None = None

    def run(
        self,
        options: FitOptions,
        train: Observations,
        validation: Observations | None,
        device: torch.device,
        checkpointing: Sequence[Callback] = (),
        group: Group = ALONE,
    ) -> None:
        """Train on ``device``, where model and network are, and add one record at the end of each epoch.

        Args:
            options: the options of the fit.
            train: the training data.
            validation: the validation data, if any.
            device: the device.
            checkpointing: the callback that writes checkpoints, if any.
            group: the processes that train together.

        Raises:
            OptionError: an optimizer or a schedule cannot be constructed; nothing has changed.
            TrainingDiverged: a loss or gradient is not finite.
            CaptureError: the steps are to be compiled and cannot be.
        """
        early_stopping = [] if options.patience is None else [EarlyStopping(options.patience)]
        bar = [] if options.progress is False else [ProgressBar(options.progress)]
        callbacks = [*options.callbacks, *early_stopping, *bar, *checkpointing]
        if group.count > 1:
            call = describe_call(options, train, validation)
            callbacks = [*(callbacks if group.is_first else ()), Synchronization(group, call, self.share)]
        epochs = len(self.records)
        loop = self._loop(options, train, validation, device, callbacks, group)
        try:
            with contextlib.nullcontext() if group.count == 1 else group.signals:
                status = loop.run()
        except BaseException:  # whatever ended the fit; it is raised again
            if len(self.records) > epochs:
                self.convergence = self._judged("interrupted", loop, early_stopping)
            raise
        self.convergence = self._judged(status, loop, early_stopping)
        self.share(group)

    def share(self, group: Group) -> None:
        """Give all processes parameters, optimizer and history of the first one."""
        if group.count == 1:
            return
        state = self.records, self.convergence, self.optimizer_state()
        self.records[:], self.convergence, optimizer = group.from_first(state)
        if not group.is_first:
            self.restore_optimizer(optimizer)
        group.copy_from_first(TrainedModules(self.model, self.network, freeze_model=self.freeze_model).tensors)

    @contextlib.contextmanager
    def undone_on_error(self, unless: Callable[[], bool]) -> Iterator[None]:
        """Restore the optimizer after an error, unless training has begun."""
        before = (self._optimizer, self._factory, self._relative_rates, self._saved_state, self._steps)
        optimizers = [] if self._optimizer is None else [self._optimizer]
        states = [(each.state, [dict(group) for group in each.param_groups]) for each in optimizers]
        try:
            yield
        except BaseException:
            if not unless():
                self._optimizer, self._factory, self._relative_rates, self._saved_state, self._steps = before
                for optimizer, state in zip(optimizers, states, strict=True):
                    optimizer.state, optimizer.param_groups = state
            raise

    def _loop(
        self,
        options: FitOptions,
        train: Observations,
        validation: Observations | None,
        device: torch.device,
        callbacks: Sequence[Callback],
        group: Group,
    ) -> Loop:
        modules = TrainedModules(self.model, self.network, freeze_model=self.freeze_model)
        modules.check_separate(train, device)
        optimizer = self._optimizer_for(options, modules)
        place_optimizer_state(optimizer, device)
        schedule = _make_schedule(options.lr_schedule, optimizer) if callable(options.lr_schedule) else None
        objective = make_objective(options.objective)
        train = train.resident(device)
        held_out = None if validation is None else validation.resident(device)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        observations = self._observations(train)
        update = Update(modules, objective, observations, Totals(device), optimizer, parameters, options.gradient_clip)
        size = None if held_out is None else held_out.size
        if held_out is not None and self.model.structure.globals:
            size = observations  # held-out data add nothing to the posterior of the global latents, whose KL stays the same
        steps = FitSteps.for_fit(update, size, options, self._steps, group)
        # A CUDA graph is replayed for one copy of the data, and would keep it in the memory of the GPU.
        self._steps = steps if device.type == "cpu" and group.count == 1 else None
        steps.update.objective.to(device)
        return Loop(
            options=options,
            first=self.records[-1].epoch + 1 if self.records else 1,
            timetable=self._timetable(options, train),
            rates=[options.lr * rate for rate in self._relative_rates],
            schedule=schedule,
            fit_steps=steps,
            train=train.divided(group.rank, group.count),
            validation=None if held_out is None else held_out.divided(group.rank, group.count),
            device=device,
            history=self.records,
            callbacks=callbacks,
        )

    def _observations(self, train: Observations) -> int | None:
        """Return the number of training observations, which share the terms outside the data plate; ``None`` if unknown."""
        if train.size is not None or not self.model.structure.globals:
            return train.size
        if self.model.structure.full_size is None:
            raise DataError(
                f"the number of observations of {train.name} is unknown, but they share the KL of the global latents: pass data "
                f"of known length, or declare their number N in the model, with "
                f"pyro.plate({self.model.structure.plate!r}, N, subsample=x)."
            )
        return self.model.structure.full_size

    def _judged(self, status: Status, loop: Loop, early_stopping: Sequence[EarlyStopping]) -> Convergence:
        climb = self.records[-1].elbo - self.records[0].elbo if self.records else 0.0
        best = next((each.best_epoch for each in early_stopping), 0)
        epoch = best or (self.records[-1].epoch if self.records else 0)
        return Convergence(status, epoch, loop.timetable.gain, climb, is_validated=loop.validation is not None)

    def _timetable(self, options: FitOptions, train: Observations) -> Timetable:
        steps = train.steps(options.batch_size) or _UNKNOWN_STEPS
        epochs = options.epochs or max(_FEWEST_EPOCHS, math.ceil(_BUDGET / steps))
        is_joint = any(parameter.requires_grad for parameter in self.model.parameters()) and not self.freeze_model
        return Timetable(
            epochs,
            ends_by_itself=options.epochs is None,
            # A posterior that is trained further is already correlated.
            locks=is_joint and not self.records,
            decays=options.lr_schedule == "auto",
            fewest_epochs=max(FEWEST_EPOCHS, math.ceil(_FEWEST_STEPS / steps)),
            may_fall=options.validation_data is not None,
        )

    def __getstate__(self) -> dict[str, Any]:
        # A copy has other tensors, so it has to record its own graphs.
        return {**vars(self), "_steps": None}

    def _optimizer_for(self, options: FitOptions, modules: TrainedModules) -> torch.optim.Optimizer:
        """Return the optimizer of earlier fits, or a new one if ``options.optimizer`` has changed.

        A new one of the same class takes over the running averages, because a lambda is another function at each call.
        """
        if self._optimizer is None or self._factory is not options.optimizer:
            made = _make_optimizer(options, modules)
            fuse(made)
            # Parameter groups may have their own learning rates; a further fit with another lr keeps their ratios.
            self._relative_rates = [float(group["lr"]) / options.lr for group in made.param_groups]
            earlier = self.optimizer_state()
            if earlier is not None and earlier["kind"] == type(made).__name__:
                _take_over(made, earlier["state"])
            self._optimizer, self._factory, self._saved_state = made, options.optimizer, None
        for group, rate in zip(self._optimizer.param_groups, self._relative_rates, strict=True):
            group["lr"] = options.lr * rate
            group.pop("initial_lr", None)
        return self._optimizer

    def optimizer_state(self) -> OptimizerState | None:
        """Return the state of the optimizer for a checkpoint, or ``None`` before the first fit."""
        if self._optimizer is None:
            return self._saved_state
        # Without what torch wraps around the method, which takes seconds to import torch._dynamo.
        state = inspect.unwrap(type(self._optimizer).state_dict)(self._optimizer)
        return {"kind": type(self._optimizer).__name__, "state": state}

    def restore_optimizer(self, saved: OptimizerState | None) -> None:
        """Restore a saved state: of the current optimizer if there is one, and otherwise of that of the next fit."""
        if self._optimizer is None or saved is None:
            self._saved_state = saved
        else:
            load_optimizer_state(self._optimizer, saved["state"])

    def move_optimizer(self) -> None:
        """Convert the state of the optimizer to the current device and type of the parameters."""
        if self._optimizer is not None:
            # Loading a state casts it to its parameters.
            self._optimizer.load_state_dict(self._optimizer.state_dict())


def _take_over(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load running averages, if they are those of the same parameters, and keep the options of the optimizer."""
    here = [len(group["params"]) for group in optimizer.param_groups]
    if here == [len(group["params"]) for group in state["param_groups"]]:
        options = [dict(group) for group in optimizer.param_groups]
        load_optimizer_state(optimizer, state)
        for group, given in zip(optimizer.param_groups, options, strict=True):
            group.update(given)


def _make_optimizer(options: FitOptions, modules: TrainedModules) -> torch.optim.Optimizer:
    try:
        with without_dynamo():
            made = options.optimizer(modules.parameters, lr=options.lr)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"optimizer={options.optimizer!r} failed when called as optimizer(parameters, lr={options.lr}): {error}"
        ) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise OptionError(f"optimizer must return a torch.optim.Optimizer; got {made!r}.")
    return made


def _make_schedule(factory: ScheduleFactory, optimizer: torch.optim.Optimizer) -> Schedule:
    try:
        made = factory(optimizer)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"lr_schedule={factory!r} failed when called as lr_schedule(optimizer): {error}. Pass other arguments with a lambda, "
            f"such as lr_schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10)."
        ) from error
    if not isinstance(made, Schedule):
        raise OptionError(f"lr_schedule must return a schedule of torch.optim.lr_scheduler; got {made!r}.")
    return made
