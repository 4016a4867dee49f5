"""Tracking of the elements of tensors through the operations of a model.

A model may observe an argument as it is, reshaped, cast, split into columns, or combined with others: ``obs=x[:, t]``,
``obs=x.reshape(-1, 28, 28)``, ``obs=torch.where(seen, x, 0.0)``. To find the elements that it reads, each element of the
arguments gets an id, and every operation that only moves elements is repeated on the ids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from amortvi._util.dispatch import DispatchMode

__all__ = ["UNKNOWN", "ElementTracker"]

UNKNOWN = -1
"""The id of an element that was computed, or is a constant."""

_aten = torch.ops.aten


class ElementTracker(DispatchMode):
    """Tracks the elements of given tensors through all operations inside the context.

    Args:
        tensors: the tensors to track, each with the ids of its elements, a tensor of the same shape.

    Example:
        >>> x = torch.tensor([[5.0, 7.0], [9.0, 3.0]])
        >>> with ElementTracker([(x, torch.tensor([[0, 1], [2, 3]]))]) as tracker:
        ...     moved = torch.cat([x.mT, torch.zeros(2, 1)], dim=1)
        >>> tracker.ids(moved)
        tensor([[ 0,  2, -1],
                [ 1,  3, -1]])
    """

    def __init__(self, tensors: Iterable[tuple[Tensor, Tensor]]) -> None:
        super().__init__()
        self._ids: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        for tensor, ids in tensors:
            self._ids[tensor] = ids

    def ids(self, tensor: Tensor) -> Tensor:
        """Return the id of each element of ``tensor``, as a tensor of the same shape."""
        found: Tensor | None = self._ids.get(tensor)
        return torch.full(tensor.shape, UNKNOWN, device=tensor.device) if found is None else found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        move = _MOVES.get(func.overloadpacket)
        if move is not None and any(isinstance(leaf, Tensor) and leaf in self._ids for leaf in tree_leaves(args)):
            moved = move(self.ids, func, args, kwargs)
            for tensor, ids in zip(tree_leaves(result), tree_leaves(moved), strict=True):
                self._ids[tensor] = ids
        elif func._schema.is_mutable:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and leaf in self._ids:
                    del self._ids[leaf]
        return result


_Move = Callable[[Callable[[Tensor], Tensor], Any, tuple[Any, ...], Mapping[str, Any]], Any]
"""Applies an operation to ids instead of elements; called with `ElementTracker.ids`, the operation and its arguments."""

_OPERATIONS: Sequence[tuple[_Move, Sequence[Any]]] = [
    (
        lambda ids, func, args, kwargs: func(ids(args[0]), *args[1:], **kwargs),
        (
            *(_aten.expand, _aten.permute, _aten.transpose, _aten.t, _aten.unsqueeze, _aten.squeeze, _aten.diagonal),
            *(_aten.slice, _aten.select, _aten.index, _aten.index_select, _aten.gather, _aten.take, _aten.unfold),
            *(_aten.unbind, _aten.split, _aten.split_with_sizes, _aten.repeat, _aten.flip, _aten.roll),
        ),
    ),
    # Clamping does not change elements inside the bounds; whether it changed any is detected when the model reads the
    # simulated data back.
    (
        lambda ids, func, args, kwargs: ids(args[0]),
        (
            *(_aten.clone, _aten.alias, _aten.detach, _aten._to_copy, _aten.lift_fresh),
            *(_aten.clamp, _aten.clamp_min, _aten.clamp_max),
        ),
    ),
    # The ids may have other strides than the elements, so they may not be viewable.
    (
        lambda ids, func, args, kwargs: ids(args[0]).reshape(args[1]),
        (_aten.view, _aten._unsafe_view, _aten._reshape_alias),
    ),
    (
        lambda ids, func, args, kwargs: func([ids(part) for part in args[0]], *args[1:], **kwargs),
        (_aten.cat, _aten.stack),
    ),
    (lambda ids, func, args, kwargs: torch.where(args[0], ids(args[1]), ids(args[2])), (_aten.where,)),
    (lambda ids, func, args, kwargs: torch.where(args[1], UNKNOWN, ids(args[0])), (_aten.masked_fill,)),
    (lambda ids, func, args, kwargs: func(ids(args[0]), args[1], UNKNOWN), (_aten.constant_pad_nd,)),
]
_MOVES: dict[Any, _Move] = {operation: move for move, operations in _OPERATIONS for operation in operations}
