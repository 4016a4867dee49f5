"""The arguments of a step: inputs of the compiled graph, or parts of the signature that the graph is compiled for."""

from __future__ import annotations

import enum
import types
from collections.abc import Hashable, Sequence
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

    Tensors and Python floats are inputs of a graph, so their values may change from step to step. All other values, and the
    shapes of the tensors, form the signature. A graph is valid for one signature.

    Args:
        leaves: the values in the arguments, in order.
        spec: the structure of the tuples, lists and dicts that contain them; ``None`` if there are none.
        names: the names of the keyword arguments, which come last.
        signature: equal for arguments that the same graph accepts.

    Example:
        >>> import torch
        >>> first = Arguments.of((torch.zeros(3), 0.5), {})
        >>> first.signature == Arguments.of((torch.ones(3), 0.7), {}).signature
        True
        >>> first.signature == Arguments.of((torch.ones(4), 0.7), {}).signature
        False
    """

    leaves: Sequence[Any]
    spec: TreeSpec | None
    names: tuple[str, ...]
    signature: Hashable

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Return the arguments of the call ``step(*args, **kwargs)``.

        Raises:
            CaptureError: a value can be neither an input of a graph nor part of a signature.
        """
        leaves: Sequence[Any] = (*args, *kwargs.values())
        spec = None
        if any(isinstance(leaf, tuple | list | dict) for leaf in leaves):
            leaves, spec = tree_flatten((args, kwargs))
        names = tuple(kwargs)
        # Some versions of torch cannot hash a TreeSpec.
        structure = None if spec is None else repr(spec)
        return cls(leaves, spec, names, (structure, names, tuple([_leaf_signature(leaf) for leaf in leaves])))

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    @property
    def floats(self) -> tuple[float, ...]:
        """The Python floats."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, float))

    @property
    def modules(self) -> list[nn.Module]:
        """The modules."""
        return [leaf for leaf in self.leaves if isinstance(leaf, nn.Module)]

    def without_data(self) -> Arguments:
        """Return a copy with empty tensors, which can be kept without keeping the data alive."""
        return replace(self, leaves=[leaf.new_empty(0) if isinstance(leaf, Tensor) else leaf for leaf in self.leaves])

    def rebuild(self, tensors: Sequence[Tensor], floats: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return ``args`` and ``kwargs`` with the same structure and new tensors and floats; the floats may be tensors."""
        new_tensors, new_floats = iter(tensors), iter(floats)
        leaves = [
            next(new_tensors) if isinstance(leaf, Tensor) else next(new_floats) if isinstance(leaf, float) else leaf
            for leaf in self.leaves
        ]
        if self.spec is not None:
            args, kwargs = tree_unflatten(leaves, self.spec)
            return args, kwargs
        positional = len(leaves) - len(self.names)
        return tuple(leaves[:positional]), dict(zip(self.names, leaves[positional:], strict=True))


_COMPARED_BY_VALUE = (int, str, bytes, complex, type(None), enum.Enum, torch.dtype, torch.device, torch.Size, frozenset)
# These are compared by identity. Guards check the state of modules, and the code of a function does not change.
_COMPARED_BY_IDENTITY = (nn.Module, type, types.FunctionType, types.BuiltinFunctionType, types.MethodType)


def _leaf_signature(leaf: Any) -> Hashable:
    if isinstance(leaf, Tensor):
        return _tensor_signature(leaf)
    if isinstance(leaf, float):
        return float
    # An object that does not define __eq__ remains equal to itself when it changes.
    hash_method = getattr(type(leaf), "__hash__", None)
    if not isinstance(leaf, _COMPARED_BY_VALUE + _COMPARED_BY_IDENTITY) and hash_method in (None, object.__hash__):
        raise CaptureError(
            f"an argument of type {type(leaf).__name__} cannot be part of a compiled step, which would not detect its changes: "
            f"pass tensors, numbers, strings, or tuples, lists and dicts of them, or use compile=False."
        )
    return type(leaf), leaf


def _tensor_signature(tensor: Tensor) -> Hashable:
    if tensor.requires_grad:
        raise CaptureError(
            "an argument requires a gradient, which a compiled step would not compute: pass it with .detach(), or use "
            "compile=False."
        )
    if tensor.layout is not torch.strided or type(tensor) is not Tensor:
        raise CaptureError(
            f"an argument is a tensor that a compiled step does not support ({tensor.layout}, {type(tensor).__name__}): pass a "
            f"plain dense tensor, or use compile=False."
        )
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
