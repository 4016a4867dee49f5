"""Copies of parameters and buffers, to go back to."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Snapshot"]


class Snapshot:
    """The parameters and buffers of some modules at one moment.

    Args:
        modules: the modules; what several of them share is kept once.
    """

    def __init__(self, *modules: nn.Module) -> None:
        tensors: dict[int, Tensor] = {}
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                tensors[id(tensor)] = tensor
        self._live = list(tensors.values())
        self._kept = [tensor.detach().clone() for tensor in self._live]

    def restore(self) -> None:
        """Write the values back into the modules."""
        with torch.no_grad():
            for live, kept in zip(self._live, self._kept, strict=True):
                live.copy_(kept)
