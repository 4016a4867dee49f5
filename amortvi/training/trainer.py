"""What a fit keeps from one call to the next: optimizer, epochs done, history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypedDict

import torch
from torch import nn

from amortvi._checks import positive_float, positive_int, seed_or_none
from amortvi.data_check import check_data
from amortvi.engine import (
    Budget,
    CompileChoice,
    CompiledEstimation,
    CompiledStep,
    EagerEstimation,
    EagerStep,
    Estimation,
    State,
    Totals,
    Update,
    is_compile_choice,
    place_state,
)
from amortvi.errors import OptionError
from amortvi.generative import GenerativeModel
from amortvi.guide import AmortizedGuide
from amortvi.objectives import Objective
from amortvi.observations import Observations, check_batch_size
from amortvi.training.early_stopping import EarlyStopping
from amortvi.training.engines import Engine
from amortvi.training.history import EpochRecord
from amortvi.training.loop import Loop, Schedule, Validation
from amortvi.training.progress import Progress

__all__ = ["FitOptions", "OptimizerFactory", "ScheduleFactory", "Trainer"]

OptimizerFactory: TypeAlias = Callable[..., torch.optim.Optimizer]
"""A `torch.optim` class, or any callable ``(parameters, lr=...) -> Optimizer``."""
ScheduleFactory: TypeAlias = Callable[[torch.optim.Optimizer], Schedule]
"""A callable ``(optimizer) -> learning-rate schedule``, called once a fit; the schedule steps once an epoch."""


class OptimizerState(TypedDict):
    """The state of an optimizer, with the name of its class."""

    kind: str
    state: dict[str, Any]


@dataclass(frozen=True)
class FitOptions:
    """The options of one fit, checked.

    Args:
        epochs: passes over the data.
        batch_size: observations a step; ``None`` is 128, or what a `DataLoader` gives.
        lr: the learning rate.
        optimizer: makes the optimizer.
        lr_schedule: makes the learning-rate schedule.
        gradient_clip: the largest norm of the gradient.
        patience: epochs without a better validation ELBO before the fit stops.
        compile: compile the steps, or not, or where it pays.
        seed: of shuffling and draws.
        progress: show a progress bar.
    """

    epochs: int
    batch_size: int | None
    lr: float
    optimizer: OptimizerFactory
    lr_schedule: ScheduleFactory | None
    gradient_clip: float | None
    patience: int | None
    compile: CompileChoice
    seed: int | None
    progress: bool

    def __post_init__(self) -> None:
        checked = {
            "epochs": positive_int("epochs", self.epochs),
            "batch_size": check_batch_size(self.batch_size),
            "lr": positive_float("lr", self.lr),
            "gradient_clip": None
            if self.gradient_clip is None
            else positive_float("gradient_clip", self.gradient_clip),
            "patience": None if self.patience is None else positive_int("patience", self.patience),
            "seed": seed_or_none(self.seed),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)  # numbers of NumPy or of a tensor, as plain ones
        if not is_compile_choice(self.compile):
            raise OptionError(f"compile must be 'auto', True or False; got {self.compile!r}.")
        if not callable(self.optimizer):
            raise OptionError(
                f"optimizer must be a torch.optim class or a callable (parameters, lr=...) -> Optimizer; "
                f"got {self.optimizer!r}."
            )
        if self.lr_schedule is not None and not callable(self.lr_schedule):
            raise OptionError(f"lr_schedule must be a callable (optimizer) -> schedule; got {self.lr_schedule!r}.")


@dataclass
class Trainer:
    """The training of one guide, and of its model unless that is frozen.

    Args:
        model: the generative model.
        guide: the guide, set up.
        freeze_model: train the guide only.
    """

    model: GenerativeModel
    guide: AmortizedGuide
    freeze_model: bool
    records: list[EpochRecord] = field(default_factory=list)
    _optimizer: torch.optim.Optimizer | None = None
    _made_by: OptimizerFactory | None = None
    _rates: list[float] = field(default_factory=list)
    _saved_state: OptimizerState | None = None
    _updates: Engine[Update] = field(default_factory=lambda: Engine(EagerStep, CompiledStep))
    _estimations: Engine[Estimation] = field(default_factory=lambda: Engine(EagerEstimation, CompiledEstimation))

    def parameters(self) -> list[nn.Parameter]:
        """What is trained: the guide's parameters and, unless it is frozen, the model's; shared ones once."""
        modules: Sequence[nn.Module] = (self.guide,) if self.freeze_model else (self.guide, self.model)
        found = {id(p): p for module in modules for p in module.parameters() if p.requires_grad}
        return list(found.values())

    def optimizer_for(self, options: FitOptions) -> torch.optim.Optimizer:
        """Return the optimizer of the earlier fits, or a new one where there is none of this kind."""
        if self._optimizer is None or self._made_by is not options.optimizer:
            made = _make_optimizer(options, self.parameters())
            # Groups of parameters may have rates of their own: they keep their ratio when a further fit has another lr.
            self._rates = [float(group["lr"]) / options.lr for group in made.param_groups]
            if self._saved_state is not None and self._saved_state["kind"] == type(made).__name__:
                made.load_state_dict(self._saved_state["state"])
            self._optimizer, self._made_by, self._saved_state = made, options.optimizer, None
        for group, rate in zip(self._optimizer.param_groups, self._rates, strict=True):
            group["lr"] = options.lr * rate
            group.pop("initial_lr", None)
        return self._optimizer

    def optimizer_state(self) -> OptimizerState | None:
        """Return the state of the optimizer for a checkpoint, or ``None`` before the first fit."""
        if self._optimizer is None:
            return self._saved_state
        return {"kind": type(self._optimizer).__name__, "state": self._optimizer.state_dict()}

    def restore_optimizer(self, saved: OptimizerState | None) -> None:
        """Keep a saved state for the next fit, if that has an optimizer of the same kind."""
        self._saved_state = saved

    def move_optimizer(self) -> None:
        """Bring the optimizer's state to where, and to the type in which, the parameters are now."""
        if self._optimizer is not None:
            # Loading a state casts it to its parameters.
            self._optimizer.load_state_dict(self._optimizer.state_dict())

    def run(
        self,
        objective: Objective,
        train: Observations,
        validation: Observations | None,
        options: FitOptions,
        device: torch.device,
    ) -> None:
        """Train as ``options`` say; records are added as epochs end, also when the fit is cut short.

        Raises:
            OptionError: an optimizer or schedule cannot be made.
            NonFiniteError: a loss or gradient is not finite.
        """
        optimizer = self.optimizer_for(options)
        place_state(optimizer, device)
        schedule = None if options.lr_schedule is None else _make_schedule(options.lr_schedule, optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        both = (self.model, self.guide)
        state = State(*both)
        train = train.resident(device)
        steps = train.steps(options.batch_size)
        budget = Budget(options.epochs)
        objective.to(device)
        step, reference = self._updates.steps(
            Update(
                self.model,
                self.guide,
                state,
                objective,
                train.size,
                Totals(device),
                optimizer,
                parameters,
                options.gradient_clip,
            ),
            options.compile,
            budget,
            steps,
        )
        held_out = None
        if validation is not None:
            validation = validation.resident(device)
            estimation, _ = self._estimations.steps(
                Estimation(self.model, self.guide, state, objective, validation.size, Totals(device)),
                options.compile,
                budget,
                validation.steps(None),
            )
            held_out = Validation(validation, estimation)
        first = self.records[-1].epoch + 1 if self.records else 1
        progress = Progress(options.epochs, steps, visible=options.progress)
        with progress, self.model.own_parameters():
            Loop(
                step=step,
                reference=reference,
                objective=objective,
                steps=steps,
                check=lambda batch: check_data(self.model, batch),
                modules=both,
                state=state,
                training_modules=(self.guide,) if self.freeze_model else both,
                optimizer=optimizer,
                schedule=schedule,
                train=train,
                validation=held_out,
                batch_size=options.batch_size,
                early_stopping=None if options.patience is None else EarlyStopping(options.patience, state),
                device=device,
                seed=options.seed,
                progress=progress,
            ).run(first, first + options.epochs - 1, self.records.append)


def _make_optimizer(options: FitOptions, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    try:
        made = options.optimizer(parameters, lr=options.lr)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"optimizer={options.optimizer!r} could not be made as optimizer(parameters, lr={options.lr}): {error}"
        ) from error
    if not isinstance(made, torch.optim.Optimizer):
        raise OptionError(f"optimizer must return a torch.optim.Optimizer; got {made!r}.")
    return made


def _make_schedule(factory: ScheduleFactory, optimizer: torch.optim.Optimizer) -> Schedule:
    try:
        made = factory(optimizer)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"lr_schedule={factory!r} could not be made as lr_schedule(optimizer): {error}. What else it needs can be given "
            f"in a lambda, such as lr_schedule=lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 10)."
        ) from error
    if not isinstance(made, Schedule):
        raise OptionError(f"lr_schedule must return a schedule of torch.optim.lr_scheduler; got {made!r}.")
    return made
