"""Optimizers of Pyro and of torch as part of a compiled step."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Hashable, Iterable, Iterator, Sequence
from operator import is_
from typing import Any

import pyro
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizers

from amortvi.compile.recordable_optimizer import (
    RecordableOptimizer,
    has_hooks,
    is_recordable,
    optimizer_options,
    place_optimizer_state,
    share_counters,
)
from amortvi.errors import AmortviWarning, CaptureError

__all__ = ["RecordedUpdate", "TorchOptim", "can_be_recorded", "has_state_for", "own_parameters"]


class TorchOptim(PyroOptim):
    """An optimizer of torch with the interface of Pyro's; it updates only the parameters that it was constructed with."""

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(type(optimizer), {})
        self.optimizer = optimizer
        self._has_warned = False

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Update the parameters and remove their gradients."""
        self._warn_of_others(params)
        self.optimizer.step(*args, **kwargs)
        self.optimizer.zero_grad(set_to_none=True)

    def get_state(self) -> dict[str, Any]:
        """Return the state of the optimizer."""
        return self.optimizer.state_dict()

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Set the state of the optimizer."""
        self.optimizer.load_state_dict(state_dict)

    @property
    def parameters(self) -> list[Tensor]:
        """The parameters that the optimizer was constructed with."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _warn_of_others(self, params: Iterable[Tensor]) -> None:
        if self._has_warned:
            return
        own = {id(parameter) for parameter in self.parameters}
        others = sorted(str(pyro.get_param_store().param_name(p)) for p in params if id(p) not in own)
        if others:
            self._has_warned = True
            warnings.warn(
                f"{type(self.optimizer).__name__} was constructed without {', '.join(others)} and does not train them: pass them "
                f"to it, or use an optimizer of pyro.optim, which finds its parameters itself.",
                AmortviWarning,
                stacklevel=2,
            )


def can_be_recorded(optim: PyroOptim, parameters: Sequence[Tensor]) -> bool:
    """Return whether the updates of ``parameters`` can be part of a graph."""
    if _global_hooks() or type(optim) not in (PyroOptim, PyroLRScheduler, TorchOptim):
        return False
    found = _optimizers(optim, parameters)
    return all(is_recordable(each) and all(group["params"] for group in each.param_groups) for each in found)


def _global_hooks() -> bool:
    return bool(torch_optimizers._global_optimizer_pre_hooks or torch_optimizers._global_optimizer_post_hooks)


def own_parameters(optim: PyroOptim) -> list[Tensor]:
    """Return the parameters that an optimizer updates in addition to those that Pyro passes to it."""
    return optim.parameters if isinstance(optim, TorchOptim) else []


def has_state_for(optim: PyroOptim, parameters: Iterable[Tensor]) -> bool:
    """Return whether an optimizer has already updated every parameter; the first update creates its state."""
    return isinstance(optim, TorchOptim) or all(parameter in optim.optim_objs for parameter in parameters)


def _optimizers(optim: PyroOptim, parameters: Sequence[Tensor]) -> list[Optimizer]:
    if isinstance(optim, TorchOptim):
        return [optim.optimizer]
    # Pyro has one optimizer per parameter, wrapped in a scheduler if there is one.
    found = [optim.optim_objs[parameter] for parameter in parameters]
    return [getattr(each, "optimizer", each) for each in found]


class RecordedUpdate:
    """The optimizer updates in a compiled step.

    Args:
        optim: an optimizer for which `can_be_recorded` holds.
        parameters: the parameters that Pyro passes to it.
    """

    def __init__(self, optim: PyroOptim, parameters: Sequence[Tensor]) -> None:
        self._optim = optim
        self._parameters = list(parameters)
        self._optimizers = _optimizers(optim, parameters)
        rates: dict[Hashable, Tensor] = {}
        self._recordable = [RecordableOptimizer(each, rates) for each in self._optimizers]
        for each, recordable in zip(self._optimizers, self._recordable, strict=True):
            device = each.param_groups[0]["params"][0].device
            if device.type == "cuda":
                place_optimizer_state(each, device)
            recordable.count_in_double()
        share_counters(self._optimizers)
        self._optim_objs = optim.optim_objs
        self._options = [optimizer_options(each) for each in self._optimizers]
        self._states = [(each.state, len(each.state)) for each in self._optimizers]
        self._contents = [(state, dict(state)) for each in self._optimizers for state in each.state.values()]
        self._equal_rates = self._which_rates_are_equal()
        self._write_rates()

    def record(self) -> None:
        """Run the updates as part of a recording; raise `CaptureError` if an optimizer replaces tensors of its state."""
        with self._restored_states(), contextlib.ExitStack() as stack:
            for recordable in self._recordable:
                stack.enter_context(recordable.recording())
            self._optim(self._parameters)

    def holds(self) -> bool:
        """Return whether the recorded updates are still valid, and write the learning rates if they have changed."""
        if self._optim.optim_objs is not self._optim_objs or _global_hooks():
            return False
        for content, known in self._contents:
            if len(content) != len(known) or not all(map(is_, content.values(), known.values())):
                return False
        for each, (state, size) in zip(self._optimizers, self._states, strict=True):
            # load_state_dict replaces the dictionary; clear() empties it.
            if each.state is not state or len(state) < size or has_hooks(each):
                return False
        settings = self._settings()
        if len(settings) == len(self._last_settings) and all(map(is_, settings, self._last_settings)):
            return True
        if [optimizer_options(each) for each in self._optimizers] != self._options:
            return False
        if self._which_rates_are_equal() != self._equal_rates:
            return False
        self._write_rates()
        return True

    def _write_rates(self) -> None:
        for recordable in self._recordable:
            recordable.write_rates()
        self._last_settings = self._settings()

    def _which_rates_are_equal(self) -> list[int]:
        rates = [group["lr"] for each in self._optimizers for group in each.param_groups]
        return [rates.index(rate) for rate in rates]

    def _settings(self) -> list[Any]:
        """Return all options, including learning rates; comparing them by identity is cheap."""
        return [value for each in self._optimizers for group in each.param_groups for value in group.values()]

    @contextlib.contextmanager
    def _restored_states(self) -> Iterator[None]:
        before = [{parameter: dict(state) for parameter, state in each.state.items()} for each in self._optimizers]
        changed = False
        try:
            yield
        finally:
            for each, states in zip(self._optimizers, before, strict=True):
                for parameter in list(each.state):
                    state, saved = each.state[parameter], states.get(parameter)
                    changed = changed or saved is None or state.keys() != saved.keys()
                    changed = changed or any(state[name] is not value for name, value in (saved or {}).items())
                    if saved is None:
                        del each.state[parameter]
                    else:
                        state.clear()
                        state.update(saved)
        if changed:
            raise CaptureError("an optimizer creates new state in each step, which a compiled step would not use.")
