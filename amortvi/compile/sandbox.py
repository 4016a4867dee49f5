"""Modes for recording a function: they list its operations, undo its writes, and refuse what a graph cannot represent."""

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

from amortvi.compile.capture_errors import READS_VALUE, SIZE_VARIES, VARIES, LastSite, capture_error, user_line
from amortvi.errors import CaptureError

__all__ = ["RefuseReads", "Sandbox", "check_same_operations"]

_LARGEST_LITERAL = 64
"""The size up to which a tensor made of Python numbers is compared by value; larger tensors are data."""

# Operations that update running statistics, although their schema does not declare these arguments as written.
_SILENT_WRITES = {
    torch.ops.aten.native_batch_norm.default: (3, 4),
    torch.ops.aten.cudnn_batch_norm.default: (3, 4),
    torch.ops.aten.miopen_batch_norm.default: (3, 4),
}


@dataclass(frozen=True)
class _Operation:
    """One operation: its name, the Python values and tensor shapes among its arguments, and the user's line, if known."""

    name: str
    constants: tuple[Any, ...]
    line: str | None


class Sandbox(TorchDispatchMode):
    """Runs functions on real tensors, and on exit restores the tensors that they changed in place.

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
        self.last_site = LastSite()
        self._written: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._operations: list[_Operation] = []
        self._constant: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        varies = torch.Tag.nondeterministic_seeded in func.tags or not (
            _is_literal(func, args) or all(map(self.is_constant, given))
        )
        if varies and _size_varies(func, args):
            raise self.refused(SIZE_VARIES)
        for written in _arguments_written(func, args, kwargs):
            if varies:
                self._constant.pop(_memory(written), None)
            if id(written) not in self._written:
                # The alias keeps the original shape: squeeze_ and similar operations change that of the tensor itself.
                self._written[id(written)] = written, written.detach(), written.detach().clone()
        self._operations.append(_operation(func, args, kwargs))
        result = func(*args, **kwargs)
        if not varies:
            for made in tree_leaves(result):
                if isinstance(made, Tensor):
                    self._constant[_memory(made)] = made.untyped_storage()
        return result

    def is_constant(self, tensor: Tensor) -> bool:
        """Return whether a tensor was made during the run, and only from values that are the same in every call."""
        return _memory(tensor) in self._constant

    def refused(self, reason: str) -> CaptureError:
        """Return the error for the line of the user's code that is being executed."""
        return capture_error(reason, user_line(sys._getframe(1)), self.last_site.name)

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]  # torch's modes are not annotated
        with torch.no_grad():
            # In reverse order, because one tensor may be a view of another.
            for _, memory, before in reversed(self._written.values()):
                memory.copy_(before)

    def take_operations(self) -> list[_Operation]:
        """Return the operations performed since the last call of this method."""
        operations, self._operations = self._operations, []
        return operations


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def check_same_operations(first: Sequence[_Operation], second: Sequence[_Operation]) -> None:
    """Raise `CaptureError` with the first difference unless two runs of a function performed the same operations."""
    for a, b in zip(first, second, strict=False):
        if (a.name, a.constants) != (b.name, b.constants):
            what = (
                f"{a.name} received {_first_difference(a.constants, b.constants)}"
                if a.name == b.name
                else f"{a.name} in one call was {b.name} in the next"
            )
            raise capture_error(f"{what}: {VARIES}", a.line)
    if len(first) != len(second):
        longer = max(first, second, key=len)
        raise capture_error(VARIES, longer[min(len(first), len(second))].line)


def _first_difference(first: tuple[Any, ...], second: tuple[Any, ...]) -> str:
    a, b = next(((a, b) for a, b in zip(first, second, strict=False) if a != b), (first, second))
    return f"{a} in one call and {b} in the next"


def _operation(func: Any, args: Any, kwargs: Any) -> _Operation:
    literal = _is_literal(func, args)
    constants = []
    for leaf in tree_leaves((args, kwargs)):
        if isinstance(leaf, Tensor):
            # A tensor made of Python numbers, such as torch.tensor(0.5), is as constant as these numbers.
            constants.append(_values(leaf) if literal else tuple(leaf.shape))
        elif isinstance(leaf, int | float | complex | str | torch.dtype | torch.device):
            constants.append(repr(leaf))
    return _Operation(str(func), tuple(constants), user_line(sys._getframe(1)))


def _is_literal(func: Any, args: Any) -> bool:
    """Return whether an operation wraps a new tensor made of Python numbers, small enough to be compared by value."""
    return "lift_fresh" in func.__name__ and args[0].numel() <= _LARGEST_LITERAL


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
                written.extend(tree_leaves(given))
    return [tensor for tensor in written if isinstance(tensor, Tensor)]


def _size_varies(func: Any, args: Any) -> bool:
    """Return whether the size of an operation's result depends on the values in its arguments."""
    if func is torch.ops.aten.index.Tensor:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return torch.Tag.dynamic_output_shape in func.tags


class RefuseReads(TorchFunctionMode):
    """Raises an error when a value is read into Python, except from tensors that are constant, such as ``torch.arange(3)``."""

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
            args = (args[0], self._with_positions(args[1]), *args[2:])
        return func(*args, **(kwargs or {}))

    def _with_positions(self, index: Any) -> Any:
        """Replace constant masks in ``index`` by the positions that they select, so that no size depends on values."""
        parts: list[Any] = []
        for part in index if isinstance(index, tuple) else (index,):
            if isinstance(part, Tensor) and part.dtype is torch.bool and self._sandbox.is_constant(part):
                with _unrecorded():
                    parts.extend(part.nonzero(as_tuple=True))
            else:
                parts.append(part)
        return tuple(parts) if isinstance(index, tuple) or len(parts) > 1 else parts[0]


def _unrecorded() -> AbstractContextManager[Any]:
    # Imported here because it would make importing amortvi slower.
    from torch.fx.experimental.proxy_tensor import disable_proxy_modes_tracing

    return disable_proxy_modes_tracing()
