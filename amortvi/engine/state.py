"""What a fit trains, listed once: to walk through modules at each epoch would take longer than some epochs."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["State"]


class State:
    """The submodules and tensors of some modules; what several of them share is there once.

    Args:
        modules: the modules.

    Attributes:
        parts: every submodule.
        tensors: every parameter and buffer.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self.parts: list[nn.Module] = list(dict.fromkeys(part for module in modules for part in module.modules()))
        found = {id(t): t for part in self.parts for t in (*part._parameters.values(), *part._buffers.values())}
        self.tensors: list[Tensor] = [tensor for tensor in found.values() if tensor is not None]
