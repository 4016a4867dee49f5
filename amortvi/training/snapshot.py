"""Copies of what a fit changes, to return to."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["OptimizerSnapshot", "Snapshot"]


class Snapshot:
    """The values of some tensors at one moment.

    Args:
        tensors: the parameters and buffers of a fit.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._live = tensors
        self._saved = [tensor.detach().clone() for tensor in tensors]

    def restore(self) -> None:
        """Write the values back."""
        with torch.no_grad():
            for live, saved in zip(self._live, self._saved, strict=True):
                live.copy_(saved)


class OptimizerSnapshot:
    """The state of an optimizer at one moment: running averages and step counts.

    Args:
        optimizer: the optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._saved = {parameter: _copied(state) for parameter, state in optimizer.state.items()}

    def restore(self) -> None:
        """Write the state back, and delete that of parameters which had none."""
        for parameter, state in list(self._optimizer.state.items()):
            saved = self._saved.get(parameter)
            if saved is None:
                del self._optimizer.state[parameter]
                continue
            for name, value in _copied(saved).items():
                # In place if possible, because a compiled step writes to that very tensor.
                live = state.get(name)
                if isinstance(live, Tensor) and isinstance(value, Tensor) and live.shape == value.shape:
                    live.copy_(value)
                else:
                    state[name] = value
        self._optimizer.zero_grad(set_to_none=True)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value) for name, value in state.items()}
