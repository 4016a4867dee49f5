"""What a compiled step depends on beside its arguments: parameters, buffers, modes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import is_
from typing import Any, TypeVar

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from amortvi.errors import CaptureError

__all__ = ["Seen", "Surroundings", "check_outside", "modes", "owners", "unconstrained", "watch"]

Result = TypeVar("Result")


@dataclass(frozen=True)
class Seen:
    """What an eager step has used.

    Args:
        parameters: what Pyro would train, unconstrained, by name.
        modules: every module that was called.
    """

    parameters: dict[str, Tensor]
    modules: list[nn.Module]


def watch(step: Callable[[], Result]) -> tuple[Result, Seen]:
    """Run a step of Pyro's and see what it uses."""
    called: dict[nn.Module, None] = {}

    def note(module: nn.Module, _: Any) -> None:
        called.setdefault(module)

    handle = register_module_forward_pre_hook(note)
    try:
        with poutine.trace(param_only=True) as captured:
            result = step()
    finally:
        handle.remove()
    return result, Seen(unconstrained(captured), list(called))


def unconstrained(captured: Any) -> dict[str, Tensor]:
    """Return the parameters in a trace as Pyro's optimizers have them."""
    return {name: site["value"].unconstrained() for name, site in captured.trace.nodes.items()}


def check_outside() -> Hashable:
    """Return the settings around a step that what is compiled depends on.

    Raises:
        CaptureError: something around this step changes it in a way that a graph could not follow.
    """
    if poutine.runtime._PYRO_STACK:
        raise CaptureError(
            "the step is taken inside a handler of Pyro's, which a compiled step would not obey: put the handler into model "
            "and guide, or leave compiling out with compile=False."
        )
    if not torch.is_grad_enabled():
        raise CaptureError("the step is taken while gradients are disabled: a compiled step would still take them.")
    casts = [(kind, torch.get_autocast_dtype(kind)) for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    return torch.get_default_dtype(), tuple(casts)


class Surroundings:
    """The tensors that a compiled step reads and writes, by the places where model, guide and Pyro look for them.

    Args:
        named: what Pyro would train, by name.
        trained: what is trained, whether or not Pyro knows of it.
        modules: every module with tensors that the step may use.
    """

    def __init__(self, named: dict[str, Tensor], trained: Iterable[Tensor], modules: Iterable[nn.Module]) -> None:
        stored = _stored()
        self._stored = [(name, value) for name, value in named.items() if stored.get(name) is value]
        kinds: list[dict[str, Any]] = [
            holder for module in modules for holder in (module._parameters, module._buffers, module._modules) if holder
        ]
        self._held = [(holder, dict(holder)) for holder in kinds]
        parameters = {id(value): value for value in (*named.values(), *trained)}
        others = {id(value): value for holder in kinds for value in holder.values() if isinstance(value, Tensor)}
        self._parameters = list(parameters.values())
        self._tensors = list((parameters | others).values())
        self._places = self._now()

    def holds(self) -> bool:
        """Whether all of them are where they were, in the same memory."""
        stored = _stored()
        return (
            all(stored.get(name) is value for name, value in self._stored)
            and all(
                len(holder) == len(kept) and all(map(is_, holder.values(), kept.values()))
                for holder, kept in self._held
            )
            and self._now() == self._places
            and not self._has_hooks()
        )

    def check(self) -> None:
        """Raise `CaptureError` if a hook waits for a gradient, which a compiled step would not call."""
        if self._has_hooks():
            raise CaptureError(
                "a parameter has a hook on its gradient, which a compiled step would not call: remove it, clip the gradient "
                "with clip_args of pyro.optim, or leave compiling out with compile=False."
            )

    def _now(self) -> list[tuple[int, bool]]:
        return [(tensor.data_ptr(), tensor.requires_grad) for tensor in self._tensors]

    def _has_hooks(self) -> bool:
        return any(p._backward_hooks or p._post_accumulate_grad_hooks for p in self._parameters)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Put back at exit what a recording must not leave behind.

        Raises:
            CaptureError: model or guide replace tensors at each step, so that the next step would not find them.
        """
        store = pyro.get_param_store()
        names = ("_params", "_param_to_name", "_constraints")
        stores = {name: dict(getattr(store, name)) for name in names}
        gradients = [parameter.grad for parameter in self._parameters]
        try:
            yield
        finally:
            changed = len(_stored()) != len(stores["_params"])
            changed = changed or any(_stored().get(name) is not value for name, value in stores["_params"].items())
            if changed:
                for name, content in stores.items():
                    setattr(store, name, content)
            for holder, kept in self._held:
                if len(holder) != len(kept) or not all(map(is_, holder.values(), kept.values())):
                    changed = True
                    holder.clear()
                    holder.update(kept)
            for parameter, gradient in zip(self._parameters, gradients, strict=True):
                parameter.grad = gradient
        if changed:
            raise CaptureError(
                "model or guide puts another tensor in place of a parameter or buffer at each step, which a compiled step "
                "would not find again: change its numbers in place (copy_, mul_), or leave compiling out with compile=False."
            )


def owners(*parts: Any) -> list[nn.Module]:
    """Return the modules that functions, methods and modules belong to, with all that they consist of."""
    found = (getattr(part, "__self__", part) for part in parts)
    return [module for owner in found if isinstance(owner, nn.Module) for module in owner.modules()]


def modes(modules: Sequence[nn.Module]) -> Hashable:
    """Return which of the modules are in training mode."""
    return tuple([module.training for module in modules])


def _stored() -> dict[str, Tensor]:
    """Pyro's parameters by name, as they are stored: `named_parameters` would make a copy at each step."""
    return pyro.get_param_store()._params
