"""What is done to tensors while a function is recorded: watched, undone, and refused where a graph could not repeat it."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from amortvi.errors import CaptureError, quoted

__all__ = ["Sandbox", "capture_error"]

_STANDARD = Path(linecache.__file__).parent
# Everything whose code is not the user's.
_LIBRARIES = (
    *(str(Path(module.__file__ or "").parent) for module in (torch, pyro, np)),
    str(Path(__file__).parents[1]),
    str(_STANDARD / "contextlib.py"),
    str(_STANDARD / "functools.py"),
)

_RECORDING = str(Path(__file__).with_name("recording.py"))

READS_VALUE = (
    "it reads the value of a tensor into Python (with if, float(), .item(), .numpy() or the like), and a recorded graph "
    "would keep that one value for ever. Write it with tensor operations, such as torch.where"
)
_VARIES = (
    "it does not do the same at each call, and a recorded graph would keep one of them for ever. Draw random numbers with "
    "torch, and keep numbers that change in tensors"
)
_SIZE_VARIES = (
    "the size of its result depends on the values in a tensor. Use torch.where, or multiply by a mask, so that sizes are "
    "always the same"
)

_LITERAL = 64

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
        super().__init__()  # type: ignore[no-untyped-call]
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
            raise _refused(_SIZE_VARIES)
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

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)  # type: ignore[no-untyped-call]
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
            raise CaptureError(_message(f"{what}: {_VARIES}", a.line))
    if len(first) != len(second):
        longer = max(first, second, key=len)
        raise CaptureError(_message(_VARIES, longer[min(len(first), len(second))].line))


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
    return _Event(str(func), tuple(numbers), _user_line(sys._getframe(1)))


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
                raise _refused(READS_VALUE)
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


class LastSite(Messenger):
    """Remembers the name of the last Pyro site that was met."""

    name: str | None = None

    def _pyro_sample(self, msg: Any) -> None:
        self.name = msg["name"]


def capture_error(error: BaseException, site: str | None) -> CaptureError:
    """Return what to tell the user of ``error``, which ended a recording.

    Args:
        error: what was raised; what it was raised from counts.
        site: the last Pyro site that was met.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, CaptureError):
        return error if site is None or "site" in str(error) else CaptureError(f"{error} (The last site: {site!r}.)")
    reads = "get value out of a tracing tensor" in str(error)
    reason = READS_VALUE if reads else f"it fails while it is recorded: {quoted(error, lines=3)}"
    line, traceback = None, error.__traceback__
    while traceback is not None:
        line = _described(traceback.tb_frame.f_code.co_filename, traceback.tb_lineno) or line
        traceback = traceback.tb_next
    return CaptureError(_message(reason, line, site))


def _refused(reason: str) -> CaptureError:
    return CaptureError(_message(reason, _user_line(sys._getframe(1))))


def _message(reason: str, line: str | None, site: str | None = None) -> str:
    where = f" at {line}" if line else ""
    after = f" (The last site: {site!r}.)" if site else ""
    return (
        f"the step cannot be recorded as one graph{where}: {reason}, or leave compiling out with compile=False.{after}"
    )


def _user_line(frame: Any) -> str | None:
    """Describe the innermost line outside the libraries, no further out than the recording."""
    while frame is not None and frame.f_code.co_filename != _RECORDING:
        line = _described(frame.f_code.co_filename, frame.f_lineno)
        if line is not None:
            return line
        frame = frame.f_back
    return None


def _described(file: str, number: int) -> str | None:
    if file.startswith(_LIBRARIES) or file.startswith("<eval_with_key>"):
        return None
    source = linecache.getline(file, number).strip()
    return f"{Path(file).name}, line {number}" + (f" (`{source}`)" if source else "")
