"""Copies of what a fit changes, to go back to."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from amortvi.engine import State

__all__ = ["OptimizerSnapshot", "Snapshot"]


class Snapshot:
    """The parameters and buffers of some modules at one moment.

    Args:
        state: of the modules.
    """

    def __init__(self, state: State) -> None:
        self._live = state.tensors
        self._kept = [tensor.detach().clone() for tensor in state.tensors]

    def restore(self) -> None:
        """Write the values back into the modules."""
        with torch.no_grad():
            for live, kept in zip(self._live, self._kept, strict=True):
                live.copy_(kept)


class OptimizerSnapshot:
    """The state of an optimizer at one moment: running averages and counts of steps.

    Args:
        optimizer: the optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._kept = {parameter: _copied(state) for parameter, state in optimizer.state.items()}

    def restore(self) -> None:
        """Write the state back, and forget that of parameters which had none."""
        for parameter, state in list(self._optimizer.state.items()):
            kept = self._kept.get(parameter)
            if kept is None:
                del self._optimizer.state[parameter]
                continue
            for name, value in _copied(kept).items():
                # In place, where a tensor is: a compiled step writes to that very tensor.
                live = state.get(name)
                if isinstance(live, Tensor) and isinstance(value, Tensor) and live.shape == value.shape:
                    live.copy_(value)
                else:
                    state[name] = value
        self._optimizer.zero_grad(set_to_none=True)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value) for name, value in state.items()}
