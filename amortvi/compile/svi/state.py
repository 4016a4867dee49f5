"""The state besides arguments that a recorded step depends on: parameters, buffers, modes of modules, and settings."""

from __future__ import annotations

import contextlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from operator import is_
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from amortvi.compile.verified_graph import memory_of
from amortvi.errors import CaptureError

__all__ = ["TensorGuard", "current_settings", "modules_of", "training_modes"]


def current_settings() -> Hashable:
    """Return the global settings that are constants of a compiled step.

    Raises:
        CaptureError: a setting would affect an eager step in a way that a graph cannot reproduce.
    """
    if poutine.runtime._PYRO_STACK:
        raise CaptureError(
            "the step runs inside a Pyro handler, which a compiled step would ignore: apply the handler to model and guide, or "
            "use compile=False."
        )
    if torch._C._len_torch_function_stack() or torch._C._len_torch_dispatch_stack():
        raise CaptureError(
            "the step runs inside a mode of torch that may change what operations do, such as DeviceContext."
        )
    if not torch.is_grad_enabled():
        raise CaptureError("the step runs with gradients disabled, but a compiled step would still compute them.")
    autocast = [(kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    return torch.get_default_dtype(), tuple(autocast)


class TensorGuard:
    """Checks that model, guide and Pyro still use the same tensors as the compiled step.

    Args:
        named: the parameters that Pyro trains, by name.
        trained: all trained parameters, including those that Pyro does not know.
        modules: every module whose tensors the step may use.
    """

    def __init__(self, named: dict[str, Tensor], trained: Iterable[Tensor], modules: Iterable[nn.Module]) -> None:
        stored, constraints = _param_store(), _store_constraints()
        self._stored = [(n, value, constraints.get(n)) for n, value in named.items() if stored.get(n) is value]
        holders: list[dict[str, Any]] = [
            holder for module in modules for holder in (module._parameters, module._buffers, module._modules) if holder
        ]
        self._named = named
        self._held = [(holder, dict(holder)) for holder in holders]
        parameters = {id(value): value for value in (*named.values(), *trained)}
        others = {id(value): value for holder in holders for value in holder.values() if isinstance(value, Tensor)}
        self._parameters = list(parameters.values())
        self._tensors = list((parameters | others).values())
        self._memory = memory_of(self._tensors)
        self._gradients: list[tuple[Tensor | None, int | None]] | None = None

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Check these tensors too."""
        self._tensors = list({id(tensor): tensor for tensor in (*self._tensors, *tensors)}.values())
        self._memory = memory_of(self._tensors)

    def holds(self) -> bool:
        """Return whether all tensors are still the same objects in the same memory."""
        stored, constraints = _param_store(), _store_constraints()
        return (
            all(stored.get(n) is value and constraints.get(n) is constraint for n, value, constraint in self._stored)
            and all(_is_unchanged(holder, content) for holder, content in self._held)
            and memory_of(self._tensors) == self._memory
            and not self._has_hooks()
        )

    def check_hooks(self) -> None:
        """Raise `CaptureError` if a parameter has a gradient hook, which a compiled step would not call."""
        for name, parameter in self._named.items():
            if _has_hooks(parameter):
                raise CaptureError(
                    f"the parameter {name!r} has a hook on its gradient, which a recorded step would not call: remove it, clip "
                    f"the gradient with clip_args of pyro.optim, or use compile=False."
                )

    def has_gradients_of_others(self) -> bool:
        """Return whether gradients were accumulated since the last step, to which a recorded step would not add its own."""
        found = [(p.grad, None if p.grad is None else p.grad._version) for p in self._parameters]
        if self._gradients is not None and all(
            grad is known and version == known_version
            for (grad, version), (known, known_version) in zip(found, self._gradients, strict=True)
        ):
            return False
        self._gradients = found
        return any(grad is not None and bool(grad.any()) for grad, _ in found)

    def _has_hooks(self) -> bool:
        return any(map(_has_hooks, self._parameters))

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Restore gradients, the parameter store and the tensors of modules on exit; raise `CaptureError` if one was replaced."""
        store = pyro.get_param_store()
        names = ("_params", "_param_to_name", "_constraints")
        contents = {name: dict(getattr(store, name)) for name in names}
        gradients = [parameter.grad for parameter in self._parameters]
        try:
            yield
        finally:
            replaced = not _is_unchanged(_param_store(), contents["_params"])
            if replaced:
                for name, content in contents.items():
                    setattr(store, name, content)
            for holder, content in self._held:
                if not _is_unchanged(holder, content):
                    replaced = True
                    holder.clear()
                    holder.update(content)
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
        if replaced:
            raise CaptureError(
                "model or guide replaces a parameter or buffer by a new tensor in each step, which a compiled step would not "
                "use: change its values in place (copy_, mul_), or use compile=False."
            )


def _has_hooks(parameter: Tensor) -> bool:
    return bool(parameter._backward_hooks or parameter._post_accumulate_grad_hooks)


def _is_unchanged(holder: dict[str, Any], content: dict[str, Any]) -> bool:
    return len(holder) == len(content) and all(map(is_, holder.values(), content.values()))


def modules_of(*parts: Any) -> list[nn.Module]:
    """Return the modules that functions, methods and modules belong to, and all their submodules."""
    owners = (getattr(part, "__self__", part) for part in parts)
    return [module for owner in owners if isinstance(owner, nn.Module) for module in owner.modules()]


def training_modes(modules: Sequence[nn.Module]) -> Hashable:
    """Return for each module whether it is in training mode."""
    return tuple([module.training for module in modules])


def _param_store() -> dict[str, Tensor]:
    """Return Pyro's unconstrained parameters by name, without the copy that `named_parameters` would make in each step."""
    return pyro.get_param_store()._params


def _store_constraints() -> dict[str, Any]:
    """Return the constraints of Pyro's parameters by name, without a copy."""
    constraints: dict[str, Any] = vars(pyro.get_param_store())["_constraints"]
    return constraints
