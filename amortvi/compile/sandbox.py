"""What is done to tensors while a function is recorded: watched, undone, and refused where a graph could not repeat it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amortvi.compile.refusals import READS_VALUE, SIZE_VARIES, VARIES, LastSite, refusal, user_line
from amortvi.errors import CaptureError

__all__ = ["NoReading", "Sandbox", "compare"]

_LITERAL = 64
"""Numbers in a tensor up to which they are compared one by one; what is made of more is data."""

# Operations that write into arguments without saying so in their schema: the running statistics.
_SILENT_WRITES = {
    torch.ops.aten.native_batch_norm.default: (3, 4),
    torch.ops.aten.cudnn_batch_norm.default: (3, 4),
    torch.ops.aten.miopen_batch_norm.default: (3, 4),
}


@dataclass(frozen=True)
class _Event:
    """One operation: what it is, the numbers in its arguments, and the user's line that led to it."""

    operation: str
    numbers: tuple[Any, ...]
    line: str | None


class Sandbox(TorchDispatchMode):
    """Runs functions on real tensors, and puts back at exit whatever they wrote into.

    Attributes:
        site: knows the last Pyro site, where it is entered.

    Example:
        >>> import torch
        >>> counter = torch.zeros(())
        >>> with Sandbox():
        ...     counter.add_(1)
        tensor(1.)
        >>> counter
        tensor(0.)
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's modes are not annotated
        self.site = LastSite()
        self._written: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._events: list[_Event] = []
        self._constant: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        depends = torch.Tag.nondeterministic_seeded in func.tags or not (
            _is_literal(func, args) or all(map(self.is_constant, given))
        )
        if depends and _size_varies(func, args):
            raise self.refused(SIZE_VARIES)
        for written in _arguments_written(func, args, kwargs):
            if depends:
                self._constant.pop(_memory(written), None)
            if id(written) not in self._written:
                # Held by an alias too, for squeeze_ and the like change the shape of the tensor itself.
                self._written[id(written)] = written, written.detach(), written.detach().clone()
        self._events.append(_event(func, args, kwargs))
        result = func(*args, **kwargs)
        if not depends:
            for made in tree_leaves(result):
                if isinstance(made, Tensor):
                    self._constant[_memory(made)] = made.untyped_storage()
        return result

    def is_constant(self, tensor: Tensor) -> bool:
        """Whether a tensor was made during the run, of nothing that could be different the next time."""
        return _memory(tensor) in self._constant

    def refused(self, reason: str) -> CaptureError:
        """Return the error for what the user's code is doing now."""
        return refusal(reason, user_line(sys._getframe(1)), self.site.name)

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]  # torch's modes are not annotated
        with torch.no_grad():
            # The last first, for one tensor may be a part of another.
            for _, memory, before in reversed(self._written.values()):
                memory.copy_(before)

    def take_events(self) -> list[_Event]:
        """Return what was done since the last call."""
        events, self._events = self._events, []
        return events


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def compare(first: Sequence[_Event], second: Sequence[_Event]) -> None:
    """Raise `CaptureError` at the first difference between two runs of one function."""
    for a, b in zip(first, second, strict=False):
        if (a.operation, a.numbers) != (b.operation, b.numbers):
            what = (
                f"{a.operation} got {_first_difference(a.numbers, b.numbers)}"
                if a.operation == b.operation
                else f"{a.operation} in one call was {b.operation} in the next"
            )
            raise refusal(f"{what}: {VARIES}", a.line)
    if len(first) != len(second):
        longer = max(first, second, key=len)
        raise refusal(VARIES, longer[min(len(first), len(second))].line)


def _first_difference(first: tuple[Any, ...], second: tuple[Any, ...]) -> str:
    a, b = next(((a, b) for a, b in zip(first, second, strict=False) if a != b), (first, second))
    return f"{a} in one call and {b} in the next"


def _event(func: Any, args: Any, kwargs: Any) -> _Event:
    literal = _is_literal(func, args)
    numbers = []
    for leaf in tree_leaves((args, kwargs)):
        if isinstance(leaf, Tensor):
            # A tensor made of Python numbers, as by torch.tensor(0.5), is these numbers.
            numbers.append(_values(leaf) if literal else tuple(leaf.shape))
        elif isinstance(leaf, int | float | complex | str | torch.dtype | torch.device):
            numbers.append(repr(leaf))
    return _Event(str(func), tuple(numbers), user_line(sys._getframe(1)))


def _is_literal(func: Any, args: Any) -> bool:
    """Whether an operation takes in a tensor just made of Python numbers, few enough to compare."""
    return "lift_fresh" in func.__name__ and args[0].numel() <= _LITERAL


def _values(tensor: Tensor) -> str:
    with torch._C.DisableTorchFunction():
        return repr(tensor.tolist())


def _arguments_written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    positions = _SILENT_WRITES.get(func, ())
    written = [args[position] for position in positions if position < len(args)]
    if func._schema.is_mutable:
        for position, declared in enumerate(func._schema.arguments):
            if declared.alias_info is not None and declared.alias_info.is_write:
                given = args[position] if position < len(args) else kwargs.get(declared.name)
                written.extend(leaf for leaf in tree_leaves(given))
    return [tensor for tensor in written if isinstance(tensor, Tensor)]


def _size_varies(func: Any, args: Any) -> bool:
    if func is torch.ops.aten.index.Tensor:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return torch.Tag.dynamic_output_shape in func.tags


class NoReading(TorchFunctionMode):
    """Refuses what takes the values of a tensor out of torch's sight, unless they are the same at each call.

    Args:
        sandbox: knows which tensors are constant, such as ``torch.arange(3)``.
    """

    _READS = frozenset(
        {
            Tensor.numpy,
            Tensor.tolist,
            Tensor.item,
            Tensor.__array__,
            Tensor.__repr__,
            Tensor.__format__,
            Tensor.__bool__,
            Tensor.__int__,
            Tensor.__float__,
            Tensor.__index__,
        }
    )

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__()
        self._sandbox = sandbox

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._READS:
            if not self._sandbox.is_constant(args[0]):
                raise self._sandbox.refused(READS_VALUE)
            with _unrecorded():
                return func(*args, **(kwargs or {}))
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            args = (args[0], self._positions(args[1]), *args[2:])
        return func(*args, **(kwargs or {}))

    def _positions(self, index: Any) -> Any:
        """Write constant masks as the positions that they choose: a graph has no sizes that depend on values."""
        parts: list[Any] = []
        for part in index if isinstance(index, tuple) else (index,):
            if isinstance(part, Tensor) and part.dtype is torch.bool and self._sandbox.is_constant(part):
                with _unrecorded():
                    parts.extend(part.nonzero(as_tuple=True))
            else:
                parts.append(part)
        return tuple(parts) if isinstance(index, tuple) or len(parts) > 1 else parts[0]


def _unrecorded() -> AbstractContextManager[Any]:
    # Imported where it is used: it would make importing amortvi take longer.
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

    return disable_proxy_modes_tracing()
