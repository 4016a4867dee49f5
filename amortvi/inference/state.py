"""The state of an estimator: what it trains, where that is, and how it is restored after an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Self

import torch
from torch import Tensor

from amortvi.data import Batch, Observations, as_observations
from amortvi.errors import NonFiniteError, NotFittedError
from amortvi.model import Model
from amortvi.posterior import AmortizedGuide
from amortvi.training import Trainer, check_device, check_dtype

__all__ = ["EstimatorState"]


class EstimatorState:
    """Model, guide and trainer of an estimator, and an example of its data."""

    _model: Model
    _guide: AmortizedGuide
    _trainer: Trainer
    _example: Batch | None = None
    _objective: str = "none"

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
        self._model.to(device=device, dtype=dtype)
        self._guide.to(device=device, dtype=dtype)
        self._trainer.move_optimizer()
        if self._example is not None and dtype is not None:
            self._example = self._example.map(lambda value: value.to(dtype) if value.is_floating_point() else value)
        return self

    @contextlib.contextmanager
    def _restored_on_error(self) -> Iterator[None]:
        """Restore example, objective, standardization, device and dtype after an error, unless training has begun."""
        before, placement = (self._example, self._objective), (self.device, self.dtype)
        network, standardization = self._guide.network, self._guide.network.standardization
        epochs = len(self._trainer.records)
        try:
            yield
        except NonFiniteError:
            raise  # training has begun, and the parameters of the last good epoch are kept
        except Exception:  # whatever failed; it is raised again
            if len(self._trainer.records) == epochs:
                (self._example, self._objective), network.standardization = before, standardization
                if placement != (self.device, self.dtype):
                    self.to(*placement)
            raise
