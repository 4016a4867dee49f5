"""The mode under which a function runs once and is recorded: it lists the operations, and refuses what no graph can represent."""

from __future__ import annotations

import sys
from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from amortvi._util.dispatch import DispatchMode
from amortvi.compile.capture_errors import (
    GENERATOR,
    READS_VALUE,
    SHAPE_CHANGES,
    SIZE_VARIES,
    UNKNOWN_TENSOR,
    LastSite,
    capture_error,
    user_line,
)
from amortvi.compile.operations import Call, Value, arguments_written, has_dynamic_size, leaves, replaced
from amortvi.errors import CaptureError

__all__ = ["Reads", "Recorder"]

_aten = torch.ops.aten

# Operations that use only the shape of their argument.
_LIKE = frozenset(
    {"zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"}
)
_INDEXED = frozenset({_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default})

Origins = frozenset[int] | None
"""The tensors from outside from which a tensor was computed, by position; ``None`` if it is different in each call."""


class Recorder(DispatchMode):
    """Lists the operations in its context, and restores on exit the tensors that they changed in place.

    Args:
        arguments: the tensors that differ from call to call.

    Example:
        >>> import torch
        >>> counter = torch.zeros(())
        >>> with Recorder([]) as recorder:
        ...     counter.add_(1)
        tensor(1.)
        >>> counter, [str(call.function) for call in recorder.calls]
        (tensor(0.), ['aten.add_.Tensor'])
    """

    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()
        self.last_site = LastSite()
        self.calls: list[Call] = []
        self.tensors: list[Tensor] = []
        self.outside: list[int] = []
        self.initial: dict[int, Tensor] = {}
        self.num_arguments = len(arguments)
        self._aliases: list[Tensor] = []  # kept alive, like the tensors, so that no identity or memory is used twice
        self._positions: dict[int, tuple[int, int]] = {}  # position and memory, by the identity of a tensor
        self._made: set[int] = set()  # the memory of tensors made in the context
        self._views: dict[Hashable, int] = {}  # the position of the first tensor with each root, memory and shape
        self._origins: dict[int, Origins] = {}  # by memory
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # an alias and a copy of each tensor that was written
        self._written: set[int] = set()  # memory
        self._read: dict[int, tuple[int, CaptureError]] = {}
        # The position of the tensor from outside that a tensor is a view of. Two of them may share their memory, but not in the
        # next call.
        self._roots: list[int | None] = []
        for argument in arguments:
            self._add(argument, None, root=len(self.tensors))

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        with torch.no_grad():
            # In reverse order, because one tensor may be a view of another.
            for alias, before in reversed(self._before.values()):
                alias.copy_(before)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "profiler":
            return func(*args, **kwargs)
        if func is _aten.lift_fresh.default:
            self._lift(args[0])
            return args[0]
        self._check(types, args, kwargs)
        if func in _INDEXED:
            args = (args[0], [part for index in args[1] for part in self._as_positions(index)], *args[2:])
        given = list(leaves((args, kwargs), Tensor))
        draws = torch.Tag.nondeterministic_seeded in func.tags
        depends_on = [] if func.overloadpacket.__name__ in _LIKE else given
        origins = None if draws else self._common_origins(depends_on)
        if has_dynamic_size(func, args):
            return self._run_now(func, args, kwargs, given, origins)
        recorded_args, recorded_kwargs = replaced((args, kwargs), Tensor, lambda tensor: Value(self.position(tensor)))
        written = arguments_written(func, args, kwargs)
        for tensor in written:
            self._note_write(tensor, origins)
        view = self._as_view(func, given[0]) if written and torch.Tag.inplace_view in func.tags else None
        result = func(*args, **kwargs)
        if not list(leaves(result, Tensor)) and not written and result is not None:
            return self._read_result(result, given)
        if view is not None:
            func, written = view, []
        roots = {_memory(tensor): self._roots[self.position(tensor)] for tensor in given}
        if not written and isinstance(result, Tensor) and self._alias(result, roots.get(_memory(result))) is not None:
            # Autograd makes many such copies of tensors, without copying their memory.
            return result
        recorded = replaced(
            result, Tensor, lambda tensor: Value(self._add(tensor, origins, roots.get(_memory(tensor))))
        )
        line = user_line(sys._getframe(1))
        self.calls.append(
            Call(func, recorded_args, recorded_kwargs, recorded, draws, bool(written) or result is None, line)
        )
        return result

    def position(self, tensor: Tensor) -> int:
        """Return the position of a tensor; one that was not made in the context comes from outside."""
        memory = _memory(tensor)
        position, known_memory = self._positions.get(id(tensor), (-1, -1))
        if known_memory == memory:
            return position
        if memory not in self._made:
            self.outside.append(len(self.tensors))
            # A parameter has another value in each step.
            return self._add(
                tensor, None if tensor.requires_grad else frozenset({len(self.tensors)}), len(self.tensors)
            )
        same = self._alias(tensor, None)
        if same is None:
            raise self.refused(UNKNOWN_TENSOR)
        return same

    def memory(self, position: int) -> int:
        """Return a key for the memory of a tensor, which its views share."""
        return _memory(self.tensors[position])

    def is_written(self, position: int) -> bool:
        """Return whether the memory of a tensor was changed in place."""
        return self.memory(position) in self._written

    def is_literal(self, position: int) -> bool:
        """Return whether a tensor was made in the context of Python numbers only, and never written."""
        origins = self._origins[self.memory(position)]
        return origins == frozenset() and not self.is_written(position)

    def is_constant(self, tensor: Tensor) -> bool:
        """Return whether a tensor has the same value in each call, as long as no tensor from outside is changed."""
        self.position(tensor)
        return self._origins[_memory(tensor)] is not None

    def note_read(self, tensor: Tensor) -> None:
        """Note that the values of a tensor are read into Python; raise `CaptureError` if they differ from call to call."""
        self.position(tensor)
        origins = self._origins[_memory(tensor)]
        error = self.refused(READS_VALUE)
        if origins is None:
            raise error
        for position in origins:
            self._read.setdefault(position, (self.tensors[position]._version, error))

    def read(self) -> tuple[tuple[Tensor, int], ...]:
        """Return the tensors from outside whose values were read, with the versions that were read.

        Raises:
            CaptureError: such a tensor is also written, so that it has another value in the next call.
        """
        for position, (_, error) in self._read.items():
            if self.memory(position) in self._written:
                raise error
        return tuple((self.tensors[position], version) for position, (version, _) in self._read.items())

    def refused(self, reason: str) -> CaptureError:
        """Return the error for the line of the user's code that is being executed."""
        return capture_error(reason, user_line(sys._getframe(1)), self.last_site.name)

    def _check(self, types: Any, args: Any, kwargs: Any) -> None:
        if any(cls not in (Tensor, nn.Parameter) for cls in types):
            raise self.refused(UNKNOWN_TENSOR)
        if any(isinstance(leaf, torch.Generator) for leaf in (*args, *kwargs.values())):
            raise self.refused(GENERATOR)

    def _add(self, tensor: Tensor, origins: Origins, root: int | None = None) -> int:
        position, memory = len(self.tensors), _memory(tensor)
        self.tensors.append(tensor)
        self._roots.append(root)
        self._positions[id(tensor)] = position, memory
        if root is None and memory not in self._origins:
            self._made.add(memory)
        self._views.setdefault((root, _view(tensor)), position)
        self._origins[memory] = _union(self._origins.get(memory, frozenset()), origins)
        return position

    def _alias(self, tensor: Tensor, root: int | None) -> int | None:
        """Return the position of a tensor of the same memory and shape, if there is one, and add ``tensor`` under it."""
        position = self._views.get((root, _view(tensor)))
        if position is not None:
            self._aliases.append(tensor)
            self._positions[id(tensor)] = position, _memory(tensor)
        return position

    def _lift(self, tensor: Tensor) -> None:
        """Add a tensor that was made of Python numbers, or that shares its memory with an array of NumPy."""
        if tensor.untyped_storage().resizable():
            # The function may write to it later.
            self.initial[self._add(tensor, frozenset())] = tensor.detach().clone()
        else:
            self.position(tensor)

    def _run_now(self, func: Any, args: Any, kwargs: Any, given: Sequence[Tensor], origins: Origins) -> Any:
        """Run an operation whose result has another size for other values; its result becomes a constant."""
        if origins is None:
            raise self.refused(SIZE_VARIES)
        result = self._read_result(func(*args, **kwargs), given)
        for tensor in leaves(result, Tensor):
            self.initial[self._add(tensor, frozenset())] = tensor.detach().clone()
        return result

    def _as_positions(self, index: Any) -> tuple[Any, ...]:
        """Replace a constant mask by the positions that it selects, so that no size depends on values."""
        if index is None or index.dtype is not torch.bool or not self.is_constant(index):
            return (index,)
        self.note_read(index)
        positions = index.nonzero(as_tuple=True)
        for each in positions:
            self._add(each, frozenset())
        return positions

    def _read_result(self, result: Any, given: Sequence[Tensor]) -> Any:
        for tensor in given:
            self.note_read(tensor)
        return result

    def _as_view(self, func: Any, tensor: Tensor) -> Any:
        """Return the view that computes what ``func`` does in place to the shape of one tensor."""
        if self.position(tensor) in self.outside or self.position(tensor) < self.num_arguments:
            raise self.refused(SHAPE_CHANGES)
        name = func.overloadpacket.__name__.removesuffix("_")
        view = getattr(getattr(_aten, name, None), func._overloadname, None)
        if view is None:
            raise self.refused(SHAPE_CHANGES)
        return view

    def _common_origins(self, given: Sequence[Tensor]) -> Origins:
        origins: Origins = frozenset()
        for tensor in given:
            self.position(tensor)
            origins = _union(origins, self._origins[_memory(tensor)])
        return origins

    def _note_write(self, tensor: Tensor, origins: Origins) -> None:
        memory = _memory(tensor)
        self._written.add(memory)
        self._origins[memory] = _union(self._origins[memory], origins)
        if memory not in self._made and id(tensor) not in self._before:
            # The alias keeps the original shape: squeeze_ and similar operations change that of the tensor itself.
            self._before[id(tensor)] = tensor.detach(), tensor.detach().clone()


def _union(first: Origins, second: Origins) -> Origins:
    return None if first is None or second is None else first | second


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _view(tensor: Tensor) -> Hashable:
    """Return a key that is equal for tensors of the same shape in the same memory, which are the same to every operation."""
    shape = tensor.shape, tensor.stride(), tensor.storage_offset()
    return _memory(tensor), shape, tensor.dtype, tensor.is_conj(), tensor.is_neg()


class Reads(TorchFunctionMode):
    """Reports to a recorder the values that Python reads without an operation of torch, such as ``tolist``."""

    _READS = frozenset({Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__repr__, Tensor.__format__})

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self._READS:
            self._recorder.note_read(args[0])
        return func(*args, **(kwargs or {}))
