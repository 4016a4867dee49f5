"""Everything that objects hold, compared before and after: tensors and their identity, modes, optimizers, histories, arrays."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

OPENED = ("amortvi", "tests", "torch.nn", "torch.optim", "torch.utils.data", "pyro.infer", "pyro.nn")
"""The packages whose objects are opened; of others, only the identity is compared."""
CACHES = {"_steps"}
"""Attributes that only make the next call faster."""
PLAIN = (str, int, float, complex, bytes, type(None), torch.dtype, torch.device, torch.Size)


class Snapshot:
    """The content of some objects, by the path to each value.

    Args:
        objects: objects by name.
    """

    def __init__(self, **objects: Any) -> None:
        self.objects = objects
        self.values = self._read()

    def check(self) -> None:
        """Assert that the objects hold what they held, parameters and buffers in the same tensors."""
        now = self._read()
        changed = [
            path for path, value in now.items() if path not in self.values or not _same(self.values[path], value)
        ]
        changed += [path for path in self.values if path not in now]
        assert not changed, f"{len(changed)} values have changed: {', '.join(changed[:9])}"

    def _read(self) -> dict[str, tuple[Any, Any]]:
        found: dict[str, tuple[Any, Any]] = {}
        opened: set[int] = set()

        def visit(path: str, value: Any) -> None:
            if isinstance(value, PLAIN):
                found[path] = (None, value)
            elif isinstance(value, Tensor | np.ndarray | pd.DataFrame | pd.Series):
                found[path] = (value, _copied(value))
                if isinstance(value, nn.Parameter):
                    visit(f"{path}.requires_grad", value.requires_grad)
                    visit(f"{path}.grad", value.grad)
            elif id(value) not in opened:
                opened.add(id(value))
                parts = _parts(value)
                found[path] = (value, None if parts is None else sorted(map(str, parts)))
                for name, part in (parts or {}).items():
                    visit(f"{path}.{name}", part)

        for name, value in self.objects.items():
            visit(name, value)
        return found


def _parts(value: Any) -> Mapping[Any, Any] | None:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if type(value).__module__.startswith(OPENED) and hasattr(value, "__dict__"):
        return {name: part for name, part in vars(value).items() if not _is_cache(value, name)}
    return None


def _is_cache(value: Any, name: str) -> bool:
    return name in CACHES or isinstance(getattr(type(value), name, None), functools.cached_property)


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return "lazy" if is_lazy(value) else value.detach().clone()
    return value.copy()


def _same(one: tuple[Any, Any], two: tuple[Any, Any]) -> bool:
    (old, before), (new, after) = one, two
    if type(old) is not type(new) or type(before) is not type(after):
        return False
    if isinstance(old, nn.Parameter) and old is not new:
        return False
    if isinstance(before, Tensor):
        same_kind = (before.dtype, before.shape, before.device) == (after.dtype, after.shape, after.device)
        return same_kind and bool(torch.allclose(before, after, rtol=0, atol=0, equal_nan=True))
    if isinstance(before, pd.DataFrame | pd.Series):
        return bool(before.equals(after))
    if isinstance(before, np.ndarray):
        return before.dtype == after.dtype and bool(np.array_equal(before, after, equal_nan=before.dtype.kind in "fc"))
    if before is None and after is None:
        return old is new
    return bool(before == after) or (before != before and after != after)  # NaN
