"""Which number of the model's arguments each number of an observed site is.

A model may observe an argument as it is, reshaped, cast, cut into columns, or put together from several: ``obs=x[:, t]``,
``obs=x.reshape(-1, 28, 28)``, ``obs=torch.where(seen, x, 0.0)``. So that simulated data can be put where the real data were,
the numbers of the arguments are followed through one run of the model on real data. Each gets a code, and every tensor
operation that only moves numbers is done on the codes as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["UNKNOWN", "Followed"]

UNKNOWN = -1
"""The code of a number that was computed, or is a constant."""

_aten = torch.ops.aten


class Followed(TorchDispatchMode):
    """Follows the numbers of some tensors through the operations inside.

    Args:
        codes: the tensors to follow, with the code of each of their numbers, shaped as they are.

    Example:
        >>> x = torch.tensor([[5.0, 7.0], [9.0, 3.0]])
        >>> with Followed([(x, torch.tensor([[0, 1], [2, 3]]))]) as followed:
        ...     moved = torch.cat([x.mT, torch.zeros(2, 1)], dim=1)
        >>> followed.codes_of(moved)
        tensor([[ 0,  2, -1],
                [ 1,  3, -1]])
    """

    def __init__(self, codes: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._codes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        for tensor, code in codes:
            self._codes[tensor] = code

    def codes_of(self, tensor: Tensor) -> Tensor:
        """Return the code of each number of ``tensor``, shaped as it is."""
        found: Tensor | None = self._codes.get(tensor)
        return torch.full(tensor.shape, UNKNOWN, device=tensor.device) if found is None else found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        move = _MOVES.get(func.overloadpacket)
        if move is not None and any(isinstance(leaf, Tensor) and leaf in self._codes for leaf in tree_leaves(args)):
            moved = move(self.codes_of, func, args, kwargs)
            for tensor, code in zip(tree_leaves(result), tree_leaves(moved), strict=True):
                self._codes[tensor] = code
        elif func._schema.is_mutable:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, Tensor) and leaf in self._codes:
                    del self._codes[leaf]
        return result


_Move = Callable[[Callable[[Tensor], Tensor], Any, tuple[Any, ...], Mapping[str, Any]], Any]
"""Does with codes what an operation does with numbers."""


def _of_first(codes_of: Callable[[Tensor], Tensor], func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return func(codes_of(args[0]), *args[1:], **kwargs)


def _kept(codes_of: Callable[[Tensor], Tensor], func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return codes_of(args[0])


def _reshaped(codes_of: Callable[[Tensor], Tensor], func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return codes_of(args[0]).reshape(args[1])  # the codes need not lie in memory as the numbers do


def _joined(codes_of: Callable[[Tensor], Tensor], func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return func([codes_of(part) for part in args[0]], *args[1:], **kwargs)


def _chosen(codes_of: Callable[[Tensor], Tensor], func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return torch.where(args[0], codes_of(args[1]), codes_of(args[2]))


def _filled(codes_of: Callable[[Tensor], Tensor], func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return torch.where(args[1], UNKNOWN, codes_of(args[0]))


def _padded(codes_of: Callable[[Tensor], Tensor], func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return func(codes_of(args[0]), args[1], UNKNOWN)


_BY_MOVE: Mapping[_Move, Sequence[Any]] = {
    _of_first: (
        *(_aten.expand, _aten.permute, _aten.transpose, _aten.t, _aten.unsqueeze, _aten.squeeze, _aten.diagonal),
        *(_aten.slice, _aten.select, _aten.index, _aten.index_select, _aten.gather, _aten.take, _aten.unfold),
        *(_aten.unbind, _aten.split, _aten.split_with_sizes, _aten.repeat, _aten.flip, _aten.roll),
    ),
    # Clamping into a support changes nothing that is inside: whether it did is seen when simulated data are read back.
    _kept: (
        *(_aten.clone, _aten.alias, _aten.detach, _aten._to_copy, _aten.lift_fresh),
        *(_aten.clamp, _aten.clamp_min, _aten.clamp_max),
    ),
    _reshaped: (_aten.view, _aten._unsafe_view, _aten._reshape_alias),
    _joined: (_aten.cat, _aten.stack),
    _chosen: (_aten.where,),
    _filled: (_aten.masked_fill,),
    _padded: (_aten.constant_pad_nd,),
}
_MOVES: dict[Any, _Move] = {operation: move for move, operations in _BY_MOVE.items() for operation in operations}
