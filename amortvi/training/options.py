"""The options of a fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from amortvi._util.checks import optional, positive_float, positive_int, seed_or_none
from amortvi.compile import CompileChoice, Verify, check_compile_choice, check_verify
from amortvi.errors import OptionError
from amortvi.objectives import Objective, ObjectiveChoice, make_objective
from amortvi.training.adam import adam
from amortvi.training.callbacks import Callback

__all__ = [
    "EncoderOptions",
    "FitOptions",
    "LearningRateSchedule",
    "OptimizerFactory",
    "Schedule",
    "ScheduleFactory",
    "check_device",
    "check_dtype",
]

Schedule: TypeAlias = torch.optim.lr_scheduler.LRScheduler | torch.optim.lr_scheduler.ReduceLROnPlateau
OptimizerFactory: TypeAlias = Callable[..., torch.optim.Optimizer]
"""A `torch.optim` class, or any callable ``(parameters, lr=...) -> Optimizer``."""
ScheduleFactory: TypeAlias = Callable[[torch.optim.Optimizer], Schedule]
"""A callable ``(optimizer) -> schedule``, called once per fit; the schedule steps once per epoch."""
LearningRateSchedule: TypeAlias = Literal["auto", "constant"] | ScheduleFactory


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """The options of one fit.

    Args:
        validation_data: held-out observations, in any form that ``x`` can have, or the fraction of ``x`` to hold out, such as
            ``0.1``; their ELBO is recorded in `history`.
        epochs: passes over the data. By default the fit ends by itself, once it has converged, or after 20,000 steps; see
            `AmortizedVI.status`.
        batch_size: observations per step; 128 by default. A `DataLoader` has its own batch size.
        lr: the largest learning rate.
        objective: ``"elbo"``, ``"iwae"`` (the importance-weighted bound of 5 draws), or an `objectives.Objective`, such as
            ``objectives.ELBO(kl_weight=objectives.LinearSchedule(epochs=20))``. By default, ``"auto"``, the ELBO; for a model
            with global latents, whose posteriors it makes too narrow, the importance-weighted bound of 20 draws.
        optimizer: a `torch.optim` class, or a callable ``(parameters, lr=...) -> Optimizer``; by default Adam with
            ``betas=(0.9, 0.95)``.
        lr_schedule: ``"auto"`` lowers the learning rate almost to zero when the bound no longer rises or, with a given number
            of epochs, over the second half of them; ``"constant"`` leaves it as it is; and a callable ``(optimizer) -> schedule
            of torch.optim.lr_scheduler`` steps once per epoch.
        standardize: whether the encoder reads standardized data: shifted, scaled and, where the tails are heavy, compressed,
            with statistics of the data of the first fit. The model reads the data as they are. Integers are standardized for
            encoders that have ``casts_integers = True``, as those of amortvi; otherwise they may be indices. An encoder that was
            trained before, or that expects data on their own scale, needs ``False``.
        gradient_clip: the maximum norm of the gradient, or ``None``. Early gradients can be thousands of times as large as later
            ones, and an optimizer that averages them remembers them for a thousand steps.
        patience: stop after this many epochs without a higher validation ELBO, and restore the best parameters.
        device: where to train, such as ``"cuda"`` or ``"mps"``; by default where the encoder is.
        dtype: ``torch.float32`` or ``torch.float64``; by default that of the encoder.
        compile: ``"auto"`` records model, guide, gradient and optimizer as one graph after 20 steps of a shape, which takes
            less than a tenth of a second and makes a step several times as fast; in a very long fit, the graph is compiled
            too. If a step cannot be recorded, it runs plain PyTorch and issues one warning. ``True`` records and compiles from
            the second step, which takes some seconds for each shape, or raises an error. ``False`` runs plain PyTorch. The
            results are equal up to rounding.
        verify: recorded steps are compared with plain PyTorch from time to time. If one differs, ``"warn"`` issues a warning
            and continues with plain PyTorch; ``"error"`` raises `VerificationError`.
        seed: makes the fit reproducible bit for bit on one machine, and leaves the caller's random state untouched.
        progress: whether to show a progress bar with the ELBO and the time left; by default in notebooks with ipywidgets and if
            standard error is a terminal, so that log files contain none.
        callbacks: objects whose methods are called during the fit; see `callbacks.Callback`.
        checkpoint: a folder in which checkpoints are written while the fit runs. The same call, in the same process or another
            one, resumes from the newest and ends with the same parameters as a fit that was never interrupted, bit for bit on
            the same machine. Without ``seed``, the checkpoint contains one that is drawn at the start. SIGINT (Ctrl-C) and
            SIGTERM write a last checkpoint. One folder holds one fit, and one process at a time may use it. A checkpoint holds
            up to 16 observations, as a saved run does; see `AmortizedVI.save`.
        every: write a checkpoint after this number of epochs, or at the end of the first epoch after a
            ``datetime.timedelta``. A checkpoint that would take more than a fiftieth of the time since the last one waits.
        keep: the number of newest checkpoints that are kept. The one with the best bound is kept as well.
        distributed: whether the processes of a `torch.distributed` process group train together, each on its share of the rows of
            every minibatch; ``batch_size`` is that of the whole minibatch. All processes make the same call, with the same data.
            The group is made from the environment that ``torchrun`` provides, unless there is one. The result is that of a fit
            in one process, up to rounding. Callbacks are called in the first process only. Steps are not recorded.

    Raises:
        OptionError: an option is out of range, or ``patience`` is given without ``validation_data``.
    """

    validation_data: Any = None
    epochs: int | None = None
    batch_size: int | None = None
    lr: float = 5e-3
    objective: ObjectiveChoice = "auto"
    optimizer: OptimizerFactory = adam
    lr_schedule: LearningRateSchedule = "auto"
    standardize: bool = True
    gradient_clip: float | None = 10.0
    patience: int | None = None
    device: str | torch.device | None = None
    dtype: torch.dtype | None = None
    compile: CompileChoice = "auto"
    verify: Verify = "warn"
    seed: int | None = None
    progress: bool | None = None
    callbacks: Sequence[Callback] = ()
    checkpoint: str | Path | None = None
    every: int | timedelta = 1
    keep: int = 3
    distributed: bool = False

    def __post_init__(self) -> None:
        checked = {
            "epochs": optional(positive_int, "epochs", self.epochs),
            "batch_size": optional(positive_int, "batch_size", self.batch_size),
            "lr": positive_float("lr", self.lr),
            "objective": self.objective if self.objective == "auto" else make_objective(self.objective),
            "gradient_clip": optional(positive_float, "gradient_clip", self.gradient_clip),
            "patience": optional(positive_int, "patience", self.patience),
            "device": optional(check_device, "device", self.device),
            "dtype": optional(check_dtype, "dtype", self.dtype),
            "compile": check_compile_choice(self.compile),
            "verify": check_verify(self.verify),
            "seed": seed_or_none(self.seed),
            "callbacks": _check_callbacks(self.callbacks),
            "checkpoint": optional(_check_path, "checkpoint", self.checkpoint),
            "every": _check_every(self.every),
            "keep": positive_int("keep", self.keep),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if not callable(self.optimizer):
            raise OptionError(
                f"optimizer must be a torch.optim class or a callable (parameters, lr=...) -> Optimizer; "
                f"got {self.optimizer!r}."
            )
        if self.lr_schedule not in ("auto", "constant") and not callable(self.lr_schedule):
            raise OptionError(
                f"lr_schedule must be 'auto', 'constant' or a callable (optimizer) -> schedule; got {self.lr_schedule!r}."
            )
        if self.patience is not None and self.validation_data is None:
            raise OptionError("patience needs validation_data, because early stopping watches the validation ELBO.")
        if not isinstance(self.distributed, bool):
            raise OptionError(f"distributed must be True or False; got {self.distributed!r}.")
        if self.distributed and self.compile is True:
            raise OptionError(
                "steps of several processes cannot be compiled: leave out compile=True, or distributed=True."
            )

    def describe(self) -> str:
        """Return the options that differ from their defaults, as the arguments of a call; data and objects by their type.

        Example:
            >>> FitOptions(epochs=10, batch_size=64, seed=0, progress=False).describe()
            'epochs=10, batch_size=64, seed=0'
        """
        given = (
            (each.name, getattr(self, each.name), each.default) for each in fields(self) if each.name != "progress"
        )
        # Arrays cannot be compared with ==.
        changed = ((name, x) for name, x, default in given if not (isinstance(x, type(default)) and x == default))
        return ", ".join(f"{name}={_described(value)}" for name, value in changed)


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(FitOptions):
    """The options of a fit of the encoder alone.

    Args:
        replicates: the number of replicates of each observation, drawn anew in each epoch.

    Raises:
        OptionError: an option is out of range, or ``checkpoint`` or ``distributed`` is given, which only `fit` has.
    """

    replicates: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.checkpoint is not None:
            raise OptionError("checkpoint is an option of fit; save the estimator before and after fit_encoder.")
        if self.distributed:
            raise OptionError("distributed is an option of fit; fit_encoder trains in one process.")
        object.__setattr__(self, "replicates", positive_int("replicates", self.replicates))


def _described(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_described, value))}]"
    if isinstance(value, bool | int | float | str | Objective | torch.dtype):
        return repr(value)
    if isinstance(value, Path | torch.device | timedelta):
        return repr(str(value))
    return getattr(value, "__qualname__", None) or type(value).__name__


def _check_callbacks(value: object) -> tuple[Callback, ...]:
    given = tuple(value) if isinstance(value, Iterable) else ()
    if not isinstance(value, Iterable) or not all(isinstance(each, Callback) for each in given):
        raise OptionError(f"callbacks must be a list of instances of callbacks.Callback; got {value!r}.")
    return given


def _check_path(name: str, value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value):
        raise OptionError(f"{name} must be the path of a folder; got {value!r}.")
    return Path(value)


def _check_every(value: object) -> int | timedelta:
    if isinstance(value, timedelta) and value > timedelta():
        return value
    if isinstance(value, timedelta | str):
        raise OptionError(f"every must be a number of epochs or a positive datetime.timedelta; got {value!r}.")
    return positive_int("every", value)


def check_dtype(name: str, value: object) -> torch.dtype:
    """Return ``value`` if it is a floating-point type in which models can be trained, else raise `OptionError`."""
    if value not in (torch.float32, torch.float64):
        raise OptionError(
            f"{name} must be the floating-point type torch.float32 or torch.float64; got {value!r}. Half precision has too few "
            f"digits for densities."
        )
    assert isinstance(value, torch.dtype)
    return value


def check_device(name: str, value: Any) -> torch.device:
    """Return ``value`` as a device if this machine has it, else raise `OptionError`."""
    try:
        device = torch.empty(0, device=value).device
        if device.type == "meta":
            raise RuntimeError("it holds shapes without values")
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise OptionError(f"{name}={str(value)!r} cannot be used on this machine: {reason}") from error
    return device
