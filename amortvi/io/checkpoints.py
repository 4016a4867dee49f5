"""Checkpoints of a fit: a folder with the newest ones and the best, and the callback that writes them."""

from __future__ import annotations

import functools
import math
import time
import warnings
from dataclasses import fields, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import torch
from filelock import FileLock, Timeout

from amortvi._util.signals import HeldSignals
from amortvi.data import Observations
from amortvi.errors import AmortviWarning, CheckpointError, OptionError
from amortvi.io.files import write_tree
from amortvi.io.saved_run import NewerFormatError, RunState, SavedRun, load_file
from amortvi.io.trees import encode
from amortvi.training import FitOptions, ResumingCallback, RunningFit

__all__ = ["Checkpoints", "load_run"]

_LARGEST_SHARE = 0.02
"""The largest share of the time that is spent on checkpoints."""
_FREE = {
    "device",
    "compile",
    "verify",
    "progress",
    "callbacks",
    "checkpoint",
    "every",
    "keep",
    "seed",
    "validation_data",
    "distributed",
}
"""The options that may change when a fit is resumed, and those that are compared otherwise."""
_RESUMABLE = ("interrupted", "stopped")
"""The statuses of fits that the same call continues."""


def load_run(path: str | Path) -> SavedRun:
    """Read a saved run, or the newest checkpoint of a folder, or raise `CheckpointError`."""
    place = Path(path)
    if not place.is_dir():
        return load_file(place)
    if (place / "run.json").exists():
        raise CheckpointError(
            f"{place} was saved by an earlier version of amortvi, as a folder with pickled tensors: fit and save it again."
        )
    newest = _newest(place)
    if newest is None:
        raise CheckpointError(f"{place} is a folder without checkpoints; pass the file that save was called with.")
    return newest


class Checkpoints(ResumingCallback):
    """The checkpoints of one fit: a context in which no other process can use their folder, and a callback.

    Args:
        options: the options of the fit.

    Raises:
        CheckpointError: the folder cannot be used, or no checkpoint in it can be read.
    """

    def __init__(self, options: FitOptions) -> None:
        assert options.checkpoint is not None
        self._folder, self._every, self._keep = Path(options.checkpoint), options.every, options.keep
        self._lock = FileLock(self._folder / ".lock", timeout=0)
        self._signals = HeldSignals()
        self._saved: SavedRun | None = None
        self._best_epoch, self._best_bound = -1, -math.inf
        self._epoch, self._time, self._cost = 0, time.monotonic(), 0.0

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise CheckpointError(
                f"checkpoint={str(self._folder)!r} is used by another fit: wait until it has ended, or pass another folder."
            ) from error
        except OSError as error:
            raise CheckpointError(f"checkpoint={str(self._folder)!r} cannot be used: {error}.") from error
        try:
            self._saved = _newest(self._folder)
            self._signals.__enter__()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._lock.release()
        self._signals.__exit__(*error)

    def seeded(self, options: FitOptions) -> FitOptions:
        """Return options with the seed of the checkpoint, or with one drawn here, if they have none."""
        if options.seed is not None:
            return options
        saved = None if self._saved is None or self._saved.tree["fit"] is None else self._saved.tree["fit"]["seed"]
        return replace(options, seed=int(torch.randint(2**62, ())) if saved is None else saved)

    def prepare(self, run: RunState, options: FitOptions, train: Observations, validation: Observations | None) -> bool:
        """Check that the newest checkpoint belongs to this fit; if the fit was finished, restore it, and return whether it was.

        Raises:
            OptionError: the folder holds the checkpoints of a fit with other options, or of other data.
            CheckpointError: it belongs to another model, encoder or family, or to an estimator with another history.
        """
        self._run, self._seed, self._call = run, options.seed, _call(options, train, validation)
        self._fingerprint = run.fingerprint()
        encode(run.tree(self._fingerprint), {}, "run")  # raises an error now if the state cannot be saved
        if self._saved is None:
            return False
        fit = self._saved.tree["fit"]
        if fit is None:
            raise CheckpointError(f"{self._saved.file} is a saved run, and no checkpoint of a fit.")
        call, seed = {**self._call, "seed": repr(self._seed)}, fit["seed"]
        saved = {**fit["call"], "seed": repr(seed)}
        other = [f"{name}={saved.get(name)} (here {value})" for name, value in call.items() if saved.get(name) != value]
        if other:
            raise OptionError(
                f"checkpoint={str(self._folder)!r} holds a fit with {', '.join(other)}: resume it with the same options and "
                f"data, or pass another folder."
            )
        ours, theirs = (
            [(each.epoch, each.elbo) for each in records] for records in (run.trainer.records, self._saved.records)
        )
        common = min(len(ours), len(theirs))
        if ours[:common] != theirs[:common]:
            raise CheckpointError(
                f"checkpoint={str(self._folder)!r} holds the fit of an estimator with another history: pass another folder."
            )
        if fit["state"] is not None:
            return False
        if len(ours) >= len(theirs):
            raise OptionError(
                f"checkpoint={str(self._folder)!r} holds this fit, which is finished: pass another folder to train further."
            )
        self._saved.restore(run)
        return True

    def resume(self, fit: RunningFit) -> None:
        if self._saved is not None:
            self._saved.restore(self._run)
            fit.load_state_dict(self._saved.tree["fit"]["state"])
        self._epoch = fit.epoch - 1

    def on_fit_start(self, fit: RunningFit) -> None:
        if self._saved is None:
            # A fit that is interrupted in its first epoch begins again from the same parameters.
            self._write(fit, self._epoch)
        self._saved = None  # its tensors are no longer needed
        self._time = time.monotonic()

    def on_step_end(self, fit: RunningFit) -> None:
        self._signals.obey()

    def on_epoch_end(self, fit: RunningFit) -> None:
        record = fit.history[-1]
        bound = record.elbo if math.isnan(record.validation_elbo) else record.validation_elbo
        if not self._is_due(record.epoch):
            return
        best = self._best_epoch, self._best_bound
        if bound > self._best_bound:
            self._best_epoch, self._best_bound = record.epoch, bound
        if not self._write(fit, record.epoch):
            self._best_epoch, self._best_bound = best

    def on_interrupt(self, fit: RunningFit) -> None:
        self._write_last(fit)

    def on_fit_end(self, fit: RunningFit) -> None:
        if fit.status == "stopped":
            self._write_last(fit)

    def _write_last(self, fit: RunningFit) -> None:
        epoch = fit.history[-1].epoch if fit.history else 0
        if epoch != self._epoch:
            self._write(fit, epoch)

    def finish(self) -> None:
        """Write the fit, if it is finished, so that the same call returns it; one that was stopped can be resumed."""
        trainer = self._run.trainer
        if trainer.records and trainer.convergence is not None and trainer.convergence.status not in _RESUMABLE:
            self._write(None, trainer.records[-1].epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"best_epoch": self._best_epoch, "best_bound": self._best_bound}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best_epoch, self._best_bound = state["best_epoch"], state["best_bound"]

    def _is_due(self, epoch: int) -> bool:
        waited = time.monotonic() - self._time
        due = (
            waited >= self._every.total_seconds()
            if isinstance(self._every, timedelta)
            else epoch - self._epoch >= self._every
        )
        return due and self._cost <= _LARGEST_SHARE * waited

    def _write(self, fit: RunningFit | None, epoch: int) -> bool:
        """Write a checkpoint of a running or finished fit; if that fails, issue a warning and keep the earlier ones."""
        begun = time.monotonic()
        state = None if fit is None else fit.state_dict()
        tree = self._run.tree(self._fingerprint, fit={"seed": self._seed, "call": self._call, "state": state})
        file = self._folder / _NAME.format(epoch, "-finished" if fit is None else "")
        try:
            write_tree(file, tree)
        except OSError as error:
            warnings.warn(
                f"no checkpoint of epoch {epoch} was written to {self._folder}: {error}. The fit goes on, and earlier "
                f"checkpoints are as they were.",
                AmortviWarning,
                stacklevel=2,
            )
            written = False
        else:
            self._epoch, written = epoch, True
            self._prune(file)
        self._time = time.monotonic()
        self._cost = self._time - begun
        return written

    def _prune(self, newest: Path) -> None:
        """Delete all checkpoints but the newest ones and the best; any after the one just written was passed over as damaged."""
        files, best = _files(self._folder), self._folder / _NAME.format(self._best_epoch, "")
        for file in files[files.index(newest) + self._keep :]:
            if file != best:
                file.unlink(missing_ok=True)


_NAME = "epoch-{:06d}{}.safetensors"


def _files(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, the newest first."""
    return sorted(folder.glob("epoch-*.safetensors"), key=lambda file: (len(file.name), file.name), reverse=True)


def _newest(folder: Path) -> SavedRun | None:
    """Return the newest checkpoint that can be read, or ``None`` if there are none.

    Raises:
        CheckpointError: none can be read, or one was written by a newer version.
    """
    problem = None
    for file in _files(folder):
        try:
            return load_file(file)
        except NewerFormatError:
            raise
        except CheckpointError as error:
            problem = error
            warnings.warn(f"a checkpoint is passed over: {error}", AmortviWarning, stacklevel=4)
    if problem is not None:
        raise CheckpointError(f"no checkpoint in {folder} can be read; delete them to start anew.") from problem
    return None


def _call(options: FitOptions, train: Observations, validation: Observations | None) -> dict[str, str]:
    """Describe what a fit depends on apart from model, posterior and seed."""
    described = {
        each.name: _described(getattr(options, each.name)) for each in fields(options) if each.name not in _FREE
    }
    return {
        "x": train.fingerprint(),
        "validation_data": "None" if validation is None else validation.fingerprint(),
        **described,
    }


def _described(value: Any) -> str:
    """Return a representation without the address in memory, which another process does not share."""
    if isinstance(value, functools.partial):
        return f"partial({_described(value.func)}, {value.args}, {value.keywords})"
    text = getattr(value, "__qualname__", None) or repr(value)
    return type(value).__qualname__ if " at 0x" in text else text
