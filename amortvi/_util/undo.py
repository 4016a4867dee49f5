"""Undoing what a failed call has done to modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

__all__ = ["undone_on_error"]


@contextlib.contextmanager
def undone_on_error(*modules: nn.Module, unless: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Restore modules after an error: attributes, types and devices of parameters, modes, and laziness.

    Values that are changed in place are not restored: before training begins, nothing does that.

    Args:
        modules: the modules, with all that are inside.
        unless: asked after an error; if it returns ``True``, nothing is restored.
    """
    parts = list(dict.fromkeys(part for module in modules for part in module.modules()))
    before = [_ModuleState(part) for part in parts]
    try:
        yield
    except BaseException:
        if not unless():
            for state in before:
                state.restore()
        raise


class _ModuleState:
    """The class and attributes of one module, and the storage and class of its parameters."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._kind = module, type(module)
        self._attributes = dict(vars(module))
        # A module keeps parameters, buffers, submodules and hooks in dictionaries.
        containers = [value for value in self._attributes.values() if isinstance(value, dict | list | set)]
        self._contents = [(container, container.copy()) for container in containers]
        tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        self._tensors = [_TensorState(each) for each in tensors]

    def restore(self) -> None:
        self._module.__class__ = self._kind
        vars(self._module).clear()
        vars(self._module).update(self._attributes)
        for container, content in self._contents:
            container.clear()
            if isinstance(container, list):
                container.extend(content)
            else:
                container.update(content)
        for tensor in self._tensors:
            tensor.restore()


class _TensorState:
    """The class of one parameter or buffer, which a lazy module changes, and its storage, which a conversion replaces."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor, self._kind, self._requires_grad = tensor, type(tensor), tensor.requires_grad
        self._data = torch.empty(0, dtype=tensor.dtype, device=tensor.device) if is_lazy(tensor) else tensor.data

    def restore(self) -> None:
        self._tensor.data = self._data
        self._tensor.__class__ = self._kind
        self._tensor.requires_grad = self._requires_grad
