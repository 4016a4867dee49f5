"""The arguments of a step: inputs of the compiled graph, or parts of the signature that the graph is compiled for."""

from __future__ import annotations

import enum
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MethodType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amortvi.errors import CaptureError

__all__ = ["Arguments"]


@dataclass(frozen=True)
class Arguments:
    """The arguments of one step.

    Tensors and Python floats are inputs of a graph, so their values may change from step to step. All other values, and the
    shapes of the tensors, form the signature. A graph is valid for one signature.

    Args:
        leaves: the values in the arguments, in order.
        structure: the tuples, lists, dicts and similar containers that hold them, for ``args`` and ``kwargs``.
        firsts: for each value, the position of the first one that is the same object.
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
    structure: tuple[_Structure | None, _Structure | None]
    firsts: tuple[int, ...]
    signature: Hashable

    @classmethod
    def of(cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """Return the arguments of the call ``step(*args, **kwargs)``.

        Raises:
            CaptureError: a value can be neither an input of a graph nor part of a signature.
        """
        leaves: list[Any] = []
        structure = (_flatten(args, leaves), _flatten(kwargs, leaves))
        identities = [id(leaf) for leaf in leaves]
        firsts = tuple([identities.index(identity) for identity in identities])
        signatures = tuple([_leaf_signature(leaf, number) for number, leaf in enumerate(leaves, start=1)])
        return cls(leaves, structure, firsts, (structure, firsts, signatures))

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors."""
        return [leaf for leaf in self.leaves if isinstance(leaf, Tensor)]

    @property
    def floats(self) -> tuple[float, ...]:
        """The Python floats."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, float))

    @property
    def objects(self) -> list[Any]:
        """The values that are compared by identity, so that changes inside them are to be watched."""
        return [leaf for leaf in self.leaves if not isinstance(leaf, (Tensor, *_COMPARED_BY_VALUE))]

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
        same = iter([leaves[first] for first in self.firsts])
        args, kwargs = (_rebuild(part, same) for part in self.structure)
        return args, kwargs


@dataclass(frozen=True)
class _Structure:
    """A container in the arguments: its type, its keys, and the structures of its parts; ``None`` stands for a value."""

    kind: Any
    keys: tuple[Hashable, ...]
    parts: tuple[Any, ...]


def _flatten(value: Any, leaves: list[Any]) -> _Structure | None:
    """Append the values in a container to ``leaves``, and return its structure."""
    kind = type(value)
    if kind in (tuple, list) or (isinstance(value, tuple) and hasattr(value, "_fields")):
        return _Structure(kind, (), tuple([_flatten(item, leaves) for item in value]))
    if kind in (dict, OrderedDict, SimpleNamespace, Namespace):
        items = value if isinstance(value, dict) else vars(value)
        return _Structure(kind, tuple(items), tuple([_flatten(item, leaves) for item in items.values()]))
    if kind is partial:
        parts = (value.func, value.args, value.keywords)
        return _Structure(kind, (), tuple([_flatten(part, leaves) for part in parts]))
    leaves.append(value)
    return None


def _rebuild(structure: _Structure | None, leaves: Iterator[Any]) -> Any:
    if structure is None:
        return next(leaves)
    kind, parts = structure.kind, [_rebuild(part, leaves) for part in structure.parts]
    if kind in (tuple, list):
        return kind(parts)
    if kind is partial:
        return partial(parts[0], *parts[1], **parts[2])
    if kind in (SimpleNamespace, Namespace):
        return kind(**{str(name): part for name, part in zip(structure.keys, parts, strict=True)})
    return kind(zip(structure.keys, parts, strict=True)) if issubclass(kind, dict) else kind(*parts)


_COMPARED_BY_VALUE = (int, str, bytes, complex, type(None), enum.Enum, torch.dtype, torch.device, torch.Size, frozenset)


def _leaf_signature(leaf: Any, number: int) -> Hashable:
    if isinstance(leaf, Tensor):
        return _tensor_signature(leaf, number)
    if isinstance(leaf, float):
        return float
    if isinstance(leaf, np.ndarray):
        raise CaptureError(
            f"argument {number} is a NumPy array, whose values a recorded step would keep: pass a tensor, or use compile=False."
        )
    # Other values are watched, because an object remains itself when it changes.
    return (type(leaf), leaf) if isinstance(leaf, _COMPARED_BY_VALUE) else _Identity(leaf)


class _Identity:
    """An object as part of a signature: equal to itself only, even if its class defines another equality."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Identity) and _identity(self.value) == _identity(other.value)

    def __hash__(self) -> int:
        return hash(_identity(self.value))


def _identity(value: Any) -> tuple[int, ...]:
    # Each access to a method makes another object.
    return (id(value.__self__), id(value.__func__)) if isinstance(value, MethodType) else (id(value),)


def _tensor_signature(tensor: Tensor, number: int) -> Hashable:
    if tensor.requires_grad:
        raise CaptureError(
            f"argument {number} requires a gradient, which a recorded step would not compute: pass it with .detach(), or use "
            f"compile=False."
        )
    if tensor.layout is not torch.strided or type(tensor) is not Tensor:
        raise CaptureError(
            f"argument {number} is a tensor that a recorded step does not support ({tensor.layout}, "
            f"{type(tensor).__name__}): pass a plain dense tensor, or use compile=False."
        )
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device
