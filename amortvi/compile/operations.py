"""Recorded operations, and what their schemas do not say plainly: which arguments they change, and when sizes vary."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

__all__ = [
    "Call",
    "Value",
    "arguments_written",
    "as_elements",
    "has_dynamic_size",
    "leaves",
    "only_checks",
    "replaced",
    "updates_list",
    "written_positions",
]

_aten = torch.ops.aten

Leaf = TypeVar("Leaf")

# Operations that update running statistics, although their schema does not declare these arguments as written.
_SILENT_WRITES = {
    _aten.native_batch_norm.default: (3, 4),
    _aten.cudnn_batch_norm.default: (3, 4),
    _aten.miopen_batch_norm.default: (3, 4),
}


@dataclass(frozen=True)
class Value:
    """Stands for the tensor at a position of `Recorder.tensors`."""

    position: int


@dataclass(frozen=True)
class Call:
    """One operation, with a `Value` in place of each tensor.

    Args:
        function: the operation.
        args: its arguments.
        kwargs: its keyword arguments.
        result: what it returns.
        draws: whether it draws random numbers.
        writes: whether it changes tensors in place, or has another effect, such as an error for a singular matrix.
        line: the user's line, if the operation has one.
    """

    function: Any
    args: Any
    kwargs: dict[str, Any]
    result: Any
    draws: bool
    writes: bool
    line: str | None


def leaves(tree: Any, kind: type[Leaf]) -> Iterator[Leaf]:
    """Yield the objects of one type in the arguments or the result of an operation.

    Only lists, tuples and dictionaries contain others there, so this takes half the time of torch's general function.
    """
    if isinstance(tree, kind):
        yield tree
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from leaves(item, kind)
    elif isinstance(tree, dict):
        yield from leaves(list(tree.values()), kind)


def replaced(tree: Any, kind: type[Leaf], replace: Callable[[Leaf], Any]) -> Any:
    """Return a copy of the arguments or the result of an operation in which the objects of one type are replaced.

    As for `leaves`, this takes a fifth of the time of torch's general function.
    """
    if isinstance(tree, kind):
        return replace(tree)
    if isinstance(tree, list | tuple):
        items = [replaced(item, kind, replace) for item in tree]
        return items if isinstance(tree, list) else tuple(items)
    if isinstance(tree, dict):
        return {name: replaced(item, kind, replace) for name, item in tree.items()}
    return tree


def arguments_written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    """Return the arguments that an operation changes in place."""
    written = [args[position] for position in _SILENT_WRITES.get(func, ()) if position < len(args)]
    for position in written_positions(func):
        name = func._schema.arguments[position].name
        written.extend(leaves(args[position] if position < len(args) else kwargs.get(name), Tensor))
    return written


@functools.cache
def written_positions(func: Any) -> list[int]:
    """Return the positions of the arguments that an operation declares to change in place."""
    return [
        position
        for position, declared in enumerate(func._schema.arguments)
        if declared.alias_info is not None and declared.alias_info.is_write
    ]


def updates_list(func: Any) -> bool:
    """Return whether an operation changes lists of tensors in place, as the updates of optimizers do."""
    return any("List" in str(func._schema.arguments[position].type) for position in written_positions(func))


def only_checks(func: Any) -> bool:
    """Return whether an operation has no result and changes nothing, so that it can only raise an error."""
    return not func._schema.returns and not func._schema.is_mutable


def has_dynamic_size(func: Any, args: Any) -> bool:
    """Return whether the size of an operation's result depends on the values in its arguments."""
    if func is _aten.index.Tensor:
        return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return torch.Tag.dynamic_output_shape in func.tags


def as_elements(tensors: Sequence[Tensor]) -> Tensor | None:
    """Return the vector whose elements the tensors are, in this order, or ``None`` if they do not share their memory so."""
    memory, start = tensors[0].untyped_storage().data_ptr(), tensors[0].storage_offset()
    for number, tensor in enumerate(tensors):
        place = tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.dtype
        if tensor.dim() or place != (memory, start + number, tensors[0].dtype):
            return None
    return tensors[0].detach().as_strided((len(tensors),), (1,), start)
