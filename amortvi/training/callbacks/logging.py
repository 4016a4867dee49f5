"""Callbacks that log each epoch with experiment trackers."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import fields
from pathlib import Path
from typing import Any

from amortvi._util.lazy import require
from amortvi.training.callbacks.base import Callback, RunningFit

__all__ = ["MLflow", "TensorBoard", "WeightsAndBiases"]

_NO_PARAMETERS = ("validation_data", "callbacks", "progress")
"""The options of a fit that are not logged."""


class _Logger(Callback):
    """Logs the record of each epoch, without what it does not have."""

    @abstractmethod
    def log(self, metrics: dict[str, float], epoch: int) -> None:
        """Log the numbers of one epoch."""

    def on_epoch_end(self, fit: RunningFit) -> None:
        record = vars(fit.history[-1])
        self.log({name: x for name, x in record.items() if name != "epoch" and not math.isnan(x)}, fit.epoch)


class TensorBoard(_Logger):
    """Writes the columns of `AmortizedVI.history` as scalars of TensorBoard, at the end of each epoch.

    Args:
        folder: where event files are written; a resumed fit continues them.

    Raises:
        MissingDependencyError: TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = folder
        require("tensorboard", extra="tensorboard", purpose="callbacks.TensorBoard")
        self._writer: Any = None

    def on_fit_start(self, fit: RunningFit) -> None:
        module = require("torch.utils.tensorboard", extra="tensorboard", purpose="callbacks.TensorBoard")
        # Events of epochs that a resumed fit repeats are replaced.
        self._writer = module.SummaryWriter(str(self.folder), purge_step=fit.epoch)

    def log(self, metrics: dict[str, float], epoch: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)

    def on_fit_end(self, fit: RunningFit) -> None:
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases(_Logger):
    """Logs the columns of `AmortizedVI.history` to a run of Weights & Biases, at the end of each epoch.

    Args:
        run: a run of ``wandb.init``, which remains open; by default, each fit is a run of its own.
        **options: the arguments of ``wandb.init`` for that run, such as ``project="digits"``.

    Raises:
        MissingDependencyError: Weights & Biases is not installed.
    """

    def __init__(self, run: Any = None, **options: Any) -> None:
        self._given, self._options, self._run = run, options, run
        if run is None:
            self._library: Any = require("wandb", extra="wandb", purpose="callbacks.WeightsAndBiases")

    def on_fit_start(self, fit: RunningFit) -> None:
        if self._given is None:
            self._run = self._library.init(**self._options)

    def log(self, metrics: dict[str, float], epoch: int) -> None:
        self._run.log(metrics, step=epoch)

    def on_fit_end(self, fit: RunningFit) -> None:
        if self._given is None and self._run is not None:
            self._run.finish()


class MLflow(_Logger):
    """Logs the options of a fit to a run of MLflow, and the columns of `AmortizedVI.history` at the end of each epoch.

    A run that the callback starts ends with the fit: as ``FINISHED``, as ``KILLED`` if Ctrl-C ended it, or as ``FAILED`` after an
    error. It is nested in the active run, if there is one.

    Args:
        run: a run of ``mlflow.start_run``, which remains open; by default, each fit is a run of its own. Options that the run
            already has, such as those of an earlier fit, keep their values.
        **options: the arguments of ``mlflow.start_run`` for that run, such as ``run_name="full"``.

    Raises:
        MissingDependencyError: MLflow is not installed.
    """

    def __init__(self, run: Any = None, **options: Any) -> None:
        self._given, self._options, self._run = run, options, run
        self._library: Any = require("mlflow", extra="mlflow", purpose="callbacks.MLflow")

    def on_fit_start(self, fit: RunningFit) -> None:
        if self._given is None:
            self._run = self._library.start_run(nested=self._library.active_run() is not None, **self._options)
        client, run_id = self._library.MlflowClient(), self._run.info.run_id
        logged = client.get_run(run_id).data.params
        for each in fields(fit.options):
            if each.name not in (*_NO_PARAMETERS, *logged):
                value = getattr(fit.options, each.name)
                client.log_param(run_id, each.name, getattr(value, "__name__", value))

    def log(self, metrics: dict[str, float], epoch: int) -> None:
        self._library.log_metrics(metrics, step=epoch, run_id=self._run.info.run_id)

    def on_fit_end(self, fit: RunningFit) -> None:
        if self._given is None:
            self._library.end_run({None: "FAILED", "interrupted": "KILLED"}.get(fit.status, "FINISHED"))
