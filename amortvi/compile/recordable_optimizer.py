"""Optimizers whose step can be part of a recorded graph."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, optim
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from amortvi.compile.operations import as_elements

__all__ = [
    "RecordableOptimizer",
    "fuse",
    "has_hooks",
    "is_recordable",
    "needs_closure",
    "optimizer_options",
    "optimizer_tensors",
    "place_optimizer_state",
    "share_counters",
    "take_step",
    "without_dynamo",
]

# These have one operation that updates all parameters.
_HAVE_FUSED = frozenset({optim.Adagrad, optim.Adam, optim.AdamW, optim.SGD})
# The step of these optimizers is a fixed sequence of tensor operations if all values that change between steps are tensors.
_RECORDABLE = _HAVE_FUSED | {
    optim.ASGD,
    optim.Adadelta,
    optim.Adamax,
    optim.NAdam,
    optim.RAdam,
    optim.RMSprop,
    optim.Rprop,
}
# The options with which a step consists of few operations on tensors, and the state that counts the steps.
_FUSED = {"fused": True, "foreach": False}
_FOREACH = {"foreach": True, "capturable": True}
_COUNTERS = frozenset({"step", "mu_product", "eta", "mu"})
# The options that are not constants of a recording.
_VARIABLE = ("params", "lr", "initial_lr")


def is_recordable(optimizer: optim.Optimizer) -> bool:
    """Return whether the step of ``optimizer`` can be recorded.

    A subclass or a hook may change Python numbers, which a recording would keep constant, so only known classes are accepted.
    """
    return type(optimizer) in _RECORDABLE and not has_hooks(optimizer)


def has_hooks(optimizer: optim.Optimizer) -> bool:
    """Return whether hooks run before or after each step of ``optimizer``, its own or those of all optimizers."""
    of_all = _global_optimizer_pre_hooks or _global_optimizer_post_hooks
    return bool(of_all or optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks)


@contextlib.contextmanager
def without_dynamo() -> Iterator[None]:
    """Let optimizers be constructed without importing ``torch._dynamo``, which takes one to three seconds.

    Torch imports it only to exclude the method that adds parameters from ``torch.compile``. Code compiled later still finds the
    method excluded, because this is undone on exit.
    """
    method: Any = getattr(optim.Optimizer.add_param_group, "__wrapped__", None)
    if method is None or hasattr(method, "__dynamo_disable"):
        yield
        return
    method.__dynamo_disable = method
    try:
        yield
    finally:
        del method.__dynamo_disable


def take_step(optimizer: optim.Optimizer, *closure: Callable[[], float]) -> None:
    """Take a step, if possible without what torch wraps around it, which imports ``torch._dynamo`` too."""
    is_plain = is_recordable(optimizer) and "step" not in vars(optimizer) and not optimizer.defaults["differentiable"]
    if closure or not is_plain:
        optimizer.step(*closure)
        return
    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(optimizer)


def needs_closure(optimizer: optim.Optimizer) -> bool:
    """Return whether ``optimizer`` evaluates the loss itself, as for a line search."""
    return isinstance(optimizer, optim.LBFGS)


def can_be_fused(optimizer: optim.Optimizer) -> bool:
    """Return whether one operation of torch can update all parameters as ``optimizer`` does."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    special = any(group.get("differentiable") or isinstance(group["lr"], Tensor) for group in optimizer.param_groups)
    return (
        type(optimizer) in _HAVE_FUSED
        and not special
        and all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    )


def fuse(optimizer: optim.Optimizer) -> None:
    """Let an optimizer update all parameters in one operation, if it can and the user has not chosen otherwise."""
    if can_be_fused(optimizer):
        for group in optimizer.param_groups:
            if group["fused"] is None and group["foreach"] is None:
                group["fused"] = True


class RecordableOptimizer:
    """A recordable optimizer. Its learning rates are tensors while it is recorded, so that a schedule can change them.

    Args:
        optimizer: the optimizer.
        rates: the tensors of other optimizers by learning rate, to share those that are equal.
    """

    def __init__(self, optimizer: optim.Optimizer, rates: dict[Hashable, Tensor] | None = None) -> None:
        self.optimizer = optimizer
        shared: dict[Hashable, Tensor] = {} if rates is None else rates
        self._options = _FUSED if can_be_fused(optimizer) else _FOREACH
        self._rates = [
            shared.setdefault((group["lr"], group["params"][0].device), _rate_like(group["params"][0]))
            for group in optimizer.param_groups
        ]
        self._written: list[float | None] = [None] * len(self._rates)

    def write_rates(self) -> None:
        """Write the current learning rates into the tensors."""
        for position, group in enumerate(self.optimizer.param_groups):
            rate = group["lr"]
            if not isinstance(rate, Tensor) and rate != self._written[position]:
                self._rates[position].fill_(rate)
                self._written[position] = rate

    def count_in_double(self) -> None:
        """Convert step counters and the numbers computed from them to double precision, which eager steps use too.

        In single precision, ``1 - beta ** step`` loses half of its digits in the first steps.
        """
        if self._options is _FUSED:
            return  # its operation computes these numbers in double precision
        for group in self.optimizer.param_groups:
            for parameter in group["params"]:
                state = self.optimizer.state.get(parameter, {})
                for name in _COUNTERS & state.keys():
                    count = state[name]
                    if isinstance(count, Tensor) and count.dtype is torch.float32 and not count.is_mps:
                        state[name] = count.double()

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Make the optimizer's step consist of tensor operations only."""
        groups = self.optimizer.param_groups
        given = [dict(group) for group in groups]
        for group, rate in zip(groups, self._rates, strict=True):
            if not isinstance(group["lr"], Tensor):
                group["lr"] = rate
            group.update({name: value for name, value in self._options.items() if name in group})
        # torch.compile sets this flag to make optimizers count their steps in tensors on every device.
        before = torch.compiler._is_compiling_flag
        torch.compiler._is_compiling_flag = True
        try:
            yield
        finally:
            torch.compiler._is_compiling_flag = before
            for group, options in zip(groups, given, strict=True):
                group.update(options)


def _rate_like(parameter: Tensor) -> Tensor:
    dtype = parameter.dtype if parameter.is_mps else torch.float64
    return torch.zeros((), dtype=dtype, device=parameter.device)


def place_optimizer_state(optimizer: optim.Optimizer, device: torch.device) -> None:
    """Move the step counters of an optimizer to the device that a compiled step needs: a CUDA ``device``, or the CPU."""
    on_device = device.type == "cuda"
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = on_device
            for parameter in group["params"]:
                state = optimizer.state.get(parameter, {})
                if isinstance(state.get("step"), Tensor):
                    state["step"] = state["step"].to(parameter.device if on_device else "cpu")


def share_counters(optimizers: Sequence[optim.Optimizer]) -> None:
    """Make the step counters of optimizers elements of one tensor on the CPU, so that one operation can advance all of them."""
    states = [state for each in optimizers if can_be_fused(each) for state in each.state.values() if "step" in state]
    counters = [state["step"] for state in states]
    kinds = {(counter.dtype, counter.device.type, counter.dim()) for counter in counters}
    if len(counters) > 1 and kinds == {(torch.float32, "cpu", 0)} and as_elements(counters) is None:
        shared = torch.stack(counters)
        for number, state in enumerate(states):
            state["step"] = shared[number]


def optimizer_tensors(optimizer: optim.Optimizer) -> list[Tensor]:
    """Return the tensors of an optimizer's state."""
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]


def optimizer_options(optimizer: optim.Optimizer) -> Hashable:
    """Return the options that a recording keeps constant: all except learning rates that are numbers."""
    return tuple(
        (
            id(group["lr"]) if isinstance(group["lr"], Tensor) else None,
            *((name, repr(value)) for name, value in group.items() if name not in _VARIABLE),
        )
        for group in optimizer.param_groups
    )
