"""The state of an estimator: what it trains, where that is, and how it is restored after an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from amortvi._util.lock import exclusive
from amortvi._util.random import Stream, derived_seed, random_state, random_state_here
from amortvi._util.undo import undone_on_error
from amortvi.data import DEFAULT_BATCH_SIZE, Batch, Observations, as_observations
from amortvi.errors import ConcurrentFitError, NotFittedError, TrainingDiverged
from amortvi.families import FamilyChoice
from amortvi.io import RunState
from amortvi.model import Model
from amortvi.objectives import default_objective
from amortvi.posterior import AmortizedGuide
from amortvi.training import FitOptions, Trainer, check_device, check_dtype

__all__ = ["EXAMPLE_SIZE", "EstimatorState"]

Options = TypeVar("Options", bound=FitOptions)

EXAMPLE_SIZE = 16
"""The observations that an estimator keeps, from which a saved run reads the structure of the model."""


class EstimatorState:
    """Model, guide and trainer of an estimator, and an example of its data."""

    family: FamilyChoice
    _model: Model
    _guide: AmortizedGuide
    _trainer: Trainer
    _example: Batch | None = None
    _objective: str = "none"
    _calls: tuple[str, ...] = ()
    _is_busy = False

    def __getstate__(self) -> dict[str, Any]:
        # A callback may copy an estimator that is being fitted; nothing fits the copy.
        return {**vars(self), "_is_busy": False}

    @property
    def generative(self) -> Model:
        return self._model

    @property
    def example(self) -> Batch:
        if self._example is None:
            raise NotFittedError("this AmortizedVI has not seen data yet: call fit or setup first.")
        return self._example

    @property
    def objective(self) -> str:
        return self._objective

    @property
    def device(self) -> torch.device:
        return next((t.device for t in self._tensors()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the parameters."""
        return next((t.dtype for t in self._tensors() if t.is_floating_point()), torch.get_default_dtype())

    def _tensors(self) -> list[Tensor]:
        return [t for module in (self._guide, self._model) for t in (*module.parameters(), *module.buffers())]

    def _read(self, x: Any, dtype: torch.dtype, name: str) -> Observations:
        classifier = self._guide.network.classifier
        return as_observations(x if classifier is None else classifier.read(x, self._model, self._example), dtype, name)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Self:
        """Move model, guide and optimizer to a device, or convert them to a floating-point type.

        Args:
            device: such as ``"cpu"``, ``"cuda"`` or ``"mps"``.
            dtype: ``torch.float32`` or ``torch.float64``.

        Returns:
            The estimator itself.

        Raises:
            OptionError: the device is not available, or ``dtype`` is not a floating-point type.
        """
        if device is None and dtype is None:
            return self
        device = None if device is None else check_device("device", device)
        dtype = None if dtype is None else check_dtype("dtype", dtype)
        with exclusive():  # not while another thread uses them
            self._model.to(device=device, dtype=dtype)
            self._guide.to(device=device, dtype=dtype)
            self._trainer.move_optimizer()
        if self._example is not None and dtype is not None:
            self._example = self._example.map(lambda value: value.to(dtype) if value.is_floating_point() else value)
        return self

    def setup(self, x: Any, *, seed: int | None = None) -> Self:
        """Read the structure of the model from data and create the parameters of the family, without training.

        `fit` calls this itself. Afterwards, all methods of a fitted estimator work, with the initial parameters.

        Args:
            x: observations, as for `fit`.
            seed: makes the initial parameters of the family reproducible.

        Returns:
            The estimator itself.

        Raises:
            AmortviError: observations, model or encoder cannot be used.
        """
        with self._restored_on_error():
            self._setup(self._read(x, self.dtype, "x"), DEFAULT_BATCH_SIZE, seed)
        return self

    def _setup(self, observations: Observations, size: int, seed: int | None) -> None:
        example = observations.first(size)
        if self._example is not None:
            self._example.check_compatible(example, "x", "the training data")
        on_device = example.to(self.device)
        with random_state(derived_seed(seed, Stream.SETUP), self.device), self._model.program.own_parameters():
            self._guide.setup(*on_device.args, **on_device.kwargs)
        # A copy: a slice would keep all data in memory.
        self._example = example.take(slice(0, EXAMPLE_SIZE)).map(torch.clone)

    def _prepared(self, x: Any, options: Options) -> tuple[Observations, Observations | None, Options]:
        """Read the data of a fit, move the parameters, set up model and network, and choose the objective."""
        dtype = options.dtype or self.dtype
        train = self._read(x, dtype, "x")
        train.steps(options.batch_size)  # raises an error if a DataLoader has another batch size
        validation = None
        if isinstance(options.validation_data, float) and 0 < options.validation_data < 1:
            train, validation = train.split(options.validation_data, derived_seed(options.seed, Stream.SPLIT))
        elif options.validation_data is not None:
            validation = self._read(options.validation_data, dtype, "validation_data")
            train.first(1).check_compatible(validation.first(1), "validation_data", "x")
        self.to(device=options.device, dtype=options.dtype)
        self._setup(train, options.batch_size or DEFAULT_BATCH_SIZE, options.seed)
        if validation is not None and validation.in_memory:
            self._guide.network.check_labels(validation.as_batch())
        if options.objective == "auto":
            options = replace(options, objective=default_objective(self._model.structure))
        return train, validation, options

    def _run(self) -> RunState:
        return RunState(self._model, self._guide, self._trainer, self.example, self._objective, self.family)

    @contextlib.contextmanager
    def _restored_on_error(self) -> Iterator[None]:
        """Restore everything after an error, unless training has begun; then the last good epoch is kept.

        Raises:
            ConcurrentFitError: another thread, or a callback of a fit, is inside.
        """
        with exclusive():
            if self._is_busy:
                raise ConcurrentFitError(
                    "this estimator is being fitted: wait until the fit has ended, or fit another estimator with copies of model "
                    "and encoder."
                )
            self._is_busy = True
        example, objective, calls, epochs = self._example, self._objective, self._calls, len(self._trainer.records)
        restore_random_state = random_state_here()
        has_begun = False

        def keeps() -> bool:
            return has_begun or len(self._trainer.records) > epochs

        try:
            with undone_on_error(self._model, self._guide, unless=keeps), self._trainer.undone_on_error(unless=keeps):
                try:
                    yield
                except (TrainingDiverged, KeyboardInterrupt):
                    has_begun = True
                    raise
        except BaseException:
            if not keeps():
                self._example, self._objective, self._calls = example, objective, calls
                restore_random_state()
            raise
        finally:
            self._is_busy = False
