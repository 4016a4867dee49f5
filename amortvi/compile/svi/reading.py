"""Lets Pyro's own estimators be recorded: they read numbers that they could do without."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["UnreadEstimates"]

# Questions that Pyro's estimators ask of values, by the function that asks. "Is it NaN?" is asked by the eager steps and of
# the loss at each step. "Is every enumerated value possible?" only saves work: what is done for the answer no is right for
# both. Whether all scales are equal has been found out by the eager step that came before.
_NO = frozenset(
    {("pyro.util", "warn_if_nan"), ("pyro.util", "warn_if_inf"), ("pyro.infer.util", "compute_expectation")}
)
_POSSIBLE_VALUES = ("pyro.infer.util", "compute_expectation")
_COMMON_SCALE = ("pyro.infer.traceenum_elbo", "_get_common_scale")
_NAN_HOOK = ("pyro.util", "warn_if_nan")


class UnreadEstimates(TorchFunctionMode):
    """Keeps inside tensors the numbers that Pyro's estimators take out of them; all other code still reads as ever.

    Nothing of Pyro is changed, and nothing has to be changed back: a mode of torch holds for one thread, in one ``with``.

    Args:
        parameters: what ``backward`` is to differentiate with respect to, so that no other leaf gets a gradient.

    Example:
        >>> import torch
        >>> from pyro.infer.util import torch_item
        >>> with UnreadEstimates([]):
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
            asker = _asker(sys._getframe(1))
            if func is Tensor.item and asker[0].startswith("pyro.infer."):
                return args[0].detach()
            if func is Tensor.__bool__ and asker in _NO:
                return False
            if func is Tensor.__float__ and asker == _COMMON_SCALE:
                return 0.0
            if func is Tensor.masked_select and asker == _POSSIBLE_VALUES:
                # The sum over the selected ones is all that is made of them.
                return torch.where(args[1], args[0], torch.zeros_like(args[0]))
            if func is Tensor.register_hook and asker == _NAN_HOOK:
                return None
        return func(*args, **kwargs)

    def _backward(self, func: Any, args: Any, kwargs: Any) -> None:
        if kwargs.get("inputs") is not None:
            func(*args, **kwargs)
        elif self.parameters:
            func(*args, **{**kwargs, "inputs": self.parameters})


_READS = frozenset({Tensor.item, Tensor.__bool__, Tensor.__float__, Tensor.masked_select, Tensor.register_hook})


def _asker(frame: FrameType | None) -> tuple[str, str]:
    """Return module and function that called torch."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module != "torch" and not module.startswith("torch."):
            return module, frame.f_code.co_name
        frame = frame.f_back
    return "", ""
