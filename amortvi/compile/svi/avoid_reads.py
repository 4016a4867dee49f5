"""A mode in which Pyro's gradient estimators can be recorded: they no longer read values of tensors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["AvoidReads"]

# Values that Pyro's estimators read, by the module and function that read them. Eager steps have checked for NaN and infinity,
# and SVI checks the loss of each step. Whether an enumerated value has probability zero only saves work; the code for
# "no" is correct in both cases. Whether all scales are equal was verified by the preceding eager step.
_ANSWER_NO = frozenset(
    {("pyro.util", "warn_if_nan"), ("pyro.util", "warn_if_inf"), ("pyro.infer.util", "compute_expectation")}
)
_SELECT_POSSIBLE = ("pyro.infer.util", "compute_expectation")
_COMMON_SCALE = ("pyro.infer.traceenum_elbo", "_get_common_scale")
_NAN_HOOK = ("pyro.util", "warn_if_nan")
_READS = frozenset({Tensor.item, Tensor.__bool__, Tensor.__float__, Tensor.masked_select, Tensor.register_hook})


class AvoidReads(TorchFunctionMode):
    """Keeps as tensors the values that Pyro's estimators convert to Python numbers; other code reads values as usual.

    Pyro itself is not modified: a torch function mode applies to one thread and one ``with`` block.

    Args:
        parameters: the parameters that ``backward`` differentiates with respect to, so that no other leaf gets a gradient.

    Example:
        >>> import torch
        >>> from pyro.infer.util import torch_item
        >>> with AvoidReads([]):
        ...     torch_item(torch.tensor(1.5))
        tensor(1.5000)
    """

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.parameters = list(parameters)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.backward:
            return self._backward(func, args, kwargs)
        if func in _READS:
            caller = _caller(sys._getframe(1))
            if func is Tensor.item and caller[0].startswith("pyro.infer."):
                return args[0].detach()
            if func is Tensor.__bool__ and caller in _ANSWER_NO:
                return False
            if func is Tensor.__float__ and caller == _COMMON_SCALE:
                return 0.0
            if func is Tensor.masked_select and caller == _SELECT_POSSIBLE:
                # Pyro only sums the selected values.
                return torch.where(args[1], args[0], torch.zeros_like(args[0]))
            if func is Tensor.register_hook and caller == _NAN_HOOK:
                return None
        return func(*args, **kwargs)

    def _backward(self, func: Any, args: Any, kwargs: Any) -> None:
        if kwargs.get("inputs") is not None:
            func(*args, **kwargs)
        elif self.parameters:
            func(*args, **{**kwargs, "inputs": self.parameters})


def _caller(frame: FrameType | None) -> tuple[str, str]:
    """Return the module and the function that called torch."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module != "torch" and not module.startswith("torch."):
            return module, frame.f_code.co_name
        frame = frame.f_back
    return "", ""
