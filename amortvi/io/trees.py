"""Nested Python values as JSON and tensors, so that a saved run needs no pickle."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amortvi.errors import CheckpointError

__all__ = ["decode", "encode"]

_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


def encode(value: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """Return what JSON can hold of ``value``, and add its tensors to ``tensors``.

    Args:
        value: ``None``, a boolean, number, string, tensor, array, type of PyTorch, or a list, tuple or mapping of these.
        tensors: the tensors by name, on the CPU.
        name: the name of the value, from which the names of its tensors are made.

    Raises:
        CheckpointError: a part of the value has another type.

    Example:
        >>> tensors = {}
        >>> tree = encode({"lr": 0.1, "mean": torch.ones(2)}, tensors, "adam")
        >>> tree, list(tensors)
        ({'dict': {'lr': 0.1, 'mean': {'tensor': 'adam.mean'}}}, ['adam.mean'])
        >>> decode(tree, tensors)
        {'lr': 0.1, 'mean': tensor([1., 1.])}
    """

    def inner(part: Any, key: object) -> Any:
        return encode(part, tensors, f"{name}.{key}")

    while name in tensors:  # "a.b" may be a key, or the key "b" of the value of "a"
        name += "'"

    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, np.generic):
        return encode(value.item(), tensors, name)
    if type(value) is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, Tensor) and value.layout == torch.strided:
        # A copy, because the value may be a part of a larger tensor, or change while it is written.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": name}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        tensors[name] = torch.from_numpy(value.copy())
        return {"array": name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, list | tuple):
        return {"tuple" if isinstance(value, tuple) else "list": [inner(part, i) for i, part in enumerate(value)]}
    if isinstance(value, Mapping):
        kind = "counter" if isinstance(value, Counter) else "dict"
        if all(type(key) is str for key in value):
            return {kind: {key: inner(part, key) for key, part in value.items()}}
        keys = encode(list(value), tensors, f"{name}.keys")
        return {f"{kind} items": [keys, encode(list(value.values()), tensors, name)]}
    raise CheckpointError(
        f"{name} is a {type(value).__name__}, which cannot be saved: a saved run holds numbers, strings, tensors, and lists and "
        f"dicts of these, so that loading it runs no code."
    )


def decode(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Return the value that `encode` was given; `KeyError`, `TypeError` or `ValueError` if ``tree`` is not what it returns."""
    if not isinstance(tree, dict):
        if isinstance(tree, list):
            raise TypeError("a list is written as a mapping with its kind")
        return tree
    ((kind, content),) = tree.items()
    return _DECODERS[kind](content, tensors)


def _list(content: Any, tensors: Mapping[str, Tensor]) -> list[Any]:
    if not isinstance(content, list):
        raise TypeError("the content of a list is a list")
    return [decode(part, tensors) for part in content]


def _dict(content: Any, tensors: Mapping[str, Tensor]) -> dict[Any, Any]:
    return {key: decode(part, tensors) for key, part in content.items()}


def _items(content: Any, tensors: Mapping[str, Tensor]) -> dict[Any, Any]:
    keys, values = content
    return dict(zip(decode(keys, tensors), decode(values, tensors), strict=True))


_DECODERS: dict[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "float": lambda content, tensors: float(content),
    "tensor": lambda content, tensors: tensors[content],
    "array": lambda content, tensors: tensors[content].numpy(),
    "dtype": lambda content, tensors: _DTYPES[content],
    "list": _list,
    "tuple": lambda content, tensors: tuple(_list(content, tensors)),
    "dict": _dict,
    "dict items": _items,
    "counter": lambda content, tensors: Counter(_dict(content, tensors)),
    "counter items": lambda content, tensors: Counter(_items(content, tensors)),
}
