"""The arguments of a step: what enters the compiled graph, and what the graph is compiled for."""

from __future__ import annotations

import enum
import types
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from amortvi.errors import CaptureError

__all__ = ["Arguments"]


@dataclass(frozen=True)
class Arguments:
    """The arguments of one step.

    Tensors and Python floats enter a graph, so their values may change from step to step. All else is part of the
    signature: a graph holds for one signature.

    Args:
        leaves: what the arguments are made of, in order.
        spec: how tuples, lists and dicts hold them; ``None`` if there are none and the names of the keywords say it all.
        names: the names of the last arguments.
        signature: equal for arguments that one graph can take.

    Example:
        >>> import torch
        >>> once = Arguments.of((torch.zeros(3), 0.5), {})
        >>> once.signature == Arguments.of((torch.ones(3), 0.7), {}).signature
        True
        >>> once.signature == Arguments.of((torch.ones(4), 0.7), {}).signature
        False
    """

    leaves: Sequence[Any]
    spec: TreeSpec | None
    names: tuple[str, ...]
    signature: Hashable

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Take the arguments apart.

        Raises:
            CaptureError: some of them can be neither an argument of a graph nor part of a signature.
        """
        leaves: Sequence[Any] = (*args, *kwargs.values())
        spec = None
        if any(isinstance(leaf, tuple | list | dict) for leaf in leaves):
            leaves, spec = tree_flatten((args, kwargs))
        names = tuple(kwargs)
        # Not every version of torch can hash a specification.
        structure = None if spec is None else repr(spec)
        return cls(leaves, spec, names, (structure, names, tuple([_kind(leaf) for leaf in leaves])))

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    @property
    def numbers(self) -> tuple[float, ...]:
        """The Python floats."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, float))

    @property
    def modules(self) -> list[nn.Module]:
        """The modules."""
        return [leaf for leaf in self.leaves if isinstance(leaf, nn.Module)]

    def emptied(self) -> Arguments:
        """Return arguments like these with nothing in their tensors, to keep."""
        return replace(self, leaves=[leaf.new_empty(0) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves])

    def filled(self, tensors: Sequence[Tensor], numbers: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with other tensors and numbers in them.

        Args:
            tensors: in place of the tensors.
            numbers: in place of the floats; tensors, too.
        """
        given_tensors, given_numbers = iter(tensors), iter(numbers)
        leaves = list(_replaced(self.leaves, given_tensors, given_numbers))
        if self.spec is not None:
            args, kwargs = tree_unflatten(leaves, self.spec)
            return args, kwargs
        positional = len(leaves) - len(self.names)
        return tuple(leaves[:positional]), dict(zip(self.names, leaves[positional:], strict=True))


def _replaced(leaves: Sequence[Any], tensors: Iterator[Tensor], numbers: Iterator[Any]) -> Iterator[Any]:
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            yield next(tensors)
        elif isinstance(leaf, float):
            yield next(numbers)
        else:
            yield leaf


_VALUES = (int, str, bytes, bool, complex, type(None), enum.Enum, torch.dtype, torch.device, torch.Size, frozenset)
# These stand for themselves; what modules hold is watched, and the code of a function does not change.
_THINGS = (nn.Module, type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def _kind(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        return _tensor_kind(leaf)
    if isinstance(leaf, float):
        return float
    # An object that is equal to itself alone may change, and nobody would see it.
    by_value = getattr(type(leaf), "__hash__", None)
    if not isinstance(leaf, _VALUES + _THINGS) and (by_value is None or by_value is object.__hash__):
        raise CaptureError(
            f"an argument of type {type(leaf).__name__} cannot be part of a compiled step, which would not see it change: "
            f"pass tensors, numbers, strings, or tuples, lists and dicts of them, or leave compiling out with compile=False."
        )
    return type(leaf), leaf


def _tensor_kind(tensor: Tensor) -> Hashable:
    if tensor.requires_grad:
        raise CaptureError(
            "an argument requires a gradient, which a compiled step does not leave on it: pass it with .detach(), or leave "
            "compiling out with compile=False."
        )
    if tensor.layout is not torch.strided or type(tensor) is not Tensor:
        raise CaptureError(
            f"an argument is a tensor of another kind ({tensor.layout}, {type(tensor).__name__}) than a compiled step takes: "
            f"pass a plain dense one, or leave compiling out with compile=False."
        )
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
