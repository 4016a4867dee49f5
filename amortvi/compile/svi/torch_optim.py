"""Pyro's optimizers, and those of torch, as part of a compiled step."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from operator import is_
from typing import Any

import pyro
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as torch_optimizers

from amortvi.compile.recordable_optimizer import RecordableOptimizer, has_hooks, is_recordable, options, place_state
from amortvi.errors import AmortviWarning, CaptureError

__all__ = ["RecordedUpdate", "TorchOptim", "can_be_recorded", "knows", "trained_by"]


class TorchOptim(PyroOptim):
    """An optimizer of torch where Pyro expects one of its own; it keeps to the parameters that it was made for.

    Args:
        optimizer: the optimizer.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(type(optimizer), {})
        self.optimizer = optimizer
        self._has_warned = False

    def __call__(self, params: Iterable[Tensor], *args: Any, **kwargs: Any) -> None:
        """Take one step, and forget the gradients."""
        self._warn_of_others(params)
        self.optimizer.step(*args, **kwargs)
        self.optimizer.zero_grad(set_to_none=True)

    def get_state(self) -> dict[str, Any]:
        """Return the optimizer's state."""
        return self.optimizer.state_dict()

    def set_state(self, state_dict: dict[str, Any]) -> None:
        """Set the optimizer's state."""
        self.optimizer.load_state_dict(state_dict)

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimizer was made for."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _warn_of_others(self, params: Iterable[Tensor]) -> None:
        if self._has_warned:
            return
        own = {id(parameter) for parameter in self.parameters}
        others = sorted(str(pyro.get_param_store().param_name(p)) for p in params if id(p) not in own)
        if others:
            self._has_warned = True
            warnings.warn(
                f"{type(self.optimizer).__name__} was made without {', '.join(others)}, so they stay as they are: give them "
                f"to it, or take an optimizer of pyro.optim, which finds its parameters itself.",
                AmortviWarning,
                stacklevel=2,
            )


def can_be_recorded(optim: PyroOptim, parameters: Sequence[Tensor]) -> bool:
    """Whether the updates of ``parameters`` can be part of a graph."""
    known = type(optim) in (PyroOptim, PyroLRScheduler, TorchOptim)
    hooks = torch_optimizers._global_optimizer_pre_hooks or torch_optimizers._global_optimizer_post_hooks
    return known and not hooks and all(map(_is_recordable, _optimizers(optim, parameters)))


def trained_by(optim: PyroOptim) -> list[Tensor]:
    """What an optimizer trains without being told of it."""
    return optim.parameters if isinstance(optim, TorchOptim) else []


def knows(optim: PyroOptim, parameters: Iterable[Tensor]) -> bool:
    """Whether an optimizer has had a step for each parameter; at the first one it makes what later ones use."""
    return isinstance(optim, TorchOptim) or all(parameter in optim.optim_objs for parameter in parameters)


def _is_recordable(optimizer: Optimizer) -> bool:
    return is_recordable(optimizer) and all(group["params"] for group in optimizer.param_groups)


def _optimizers(optim: PyroOptim, parameters: Sequence[Tensor]) -> list[Optimizer]:
    if isinstance(optim, TorchOptim):
        return [optim.optimizer]
    # Pyro has one for each parameter, inside a scheduler where there is one.
    found = [optim.optim_objs[parameter] for parameter in parameters]
    return [getattr(each, "optimizer", each) for each in found]


class RecordedUpdate:
    """The optimizers' part of a compiled step.

    Args:
        optim: an optimizer that `can_be_recorded`.
        parameters: what it updates.
    """

    def __init__(self, optim: PyroOptim, parameters: Sequence[Tensor]) -> None:
        self._optim = optim
        self._parameters = list(parameters)
        self._optimizers = _optimizers(optim, parameters)
        for each in self._optimizers:
            device = each.param_groups[0]["params"][0].device
            if device.type == "cuda":
                place_state(each, device)
        self._recordable = [RecordableOptimizer(each) for each in self._optimizers]
        for recordable in self._recordable:
            recordable.count_in_double()
        self._made_by = optim.optim_objs
        self._options = [options(each) for each in self._optimizers]
        self._states = [(each.state, len(each.state)) for each in self._optimizers]
        self._write_rates()

    def record(self) -> None:
        """Take the optimizers' steps, as part of a recording.

        Raises:
            CaptureError: an optimizer replaces tensors of its state.
        """
        with self._kept_states(), contextlib.ExitStack() as stack:
            for recordable in self._recordable:
                stack.enter_context(recordable.recording())
            self._optim(self._parameters)

    def holds(self) -> bool:
        """Whether the recorded updates are still the right ones; learning rates may change, and are then taken over."""
        if self._optim.optim_objs is not self._made_by:
            return False
        for each, (state, size) in zip(self._optimizers, self._states, strict=True):
            # Loading a state makes another dictionary; clearing it empties this one.
            if each.state is not state or len(state) < size:
                return False
            if has_hooks(each):
                return False
        settings = self._settings()
        if len(settings) == len(self._seen) and all(map(is_, settings, self._seen)):
            return True
        if [options(each) for each in self._optimizers] != self._options:
            return False
        self._write_rates()
        return True

    def _write_rates(self) -> None:
        for recordable in self._recordable:
            recordable.write_rates()
        self._seen = self._settings()

    def _settings(self) -> list[Any]:
        """All options as they are, learning rates among them; to look whether they are the same objects is cheap."""
        return [value for each in self._optimizers for group in each.param_groups for value in group.values()]

    @contextlib.contextmanager
    def _kept_states(self) -> Iterator[None]:
        before = [{parameter: dict(state) for parameter, state in each.state.items()} for each in self._optimizers]
        changed = False
        try:
            yield
        finally:
            for each, states in zip(self._optimizers, before, strict=True):
                for parameter in list(each.state):
                    state, kept = each.state[parameter], states.get(parameter)
                    changed = changed or kept is None or state.keys() != kept.keys()
                    changed = changed or any(state[name] is not value for name, value in (kept or {}).items())
                    if kept is None:
                        del each.state[parameter]
                    else:
                        state.clear()
                        state.update(kept)
        if changed:
            raise CaptureError("an optimizer makes new state at each step, which a compiled step would not find again.")
