"""A guard on the Python values that model and guide refer to: a graph keeps them constant, so it is invalid if they change."""

from __future__ import annotations

import contextlib
import dis
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import islice
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from amortvi.errors import CaptureError

__all__ = ["ConstantGuard"]

# The values that these packages refer to do not change between two steps.
_LIBRARIES = frozenset({*sys.stdlib_module_names, "builtins", "numpy", "pyro", "torch"})
_PLAIN = (int, float, complex, str, bytes, type(None))
_CONTAINERS = (list, tuple, dict, set)
_LARGEST_CONTAINER = 100
"""The size up to which the items of a container are checked. A larger one is data, which belongs in tensors if it changes."""
_MISSING = object()


class ConstantGuard:
    """Checks the values that model and guide refer to by name: globals, closures, attributes, items of lists and dicts.

    A number such as ``self.beta`` is a constant of a graph, which would silently keep the old value when the number changes. The
    guard therefore finds all such values, starting from the callables in ``roots``, by the names in their code.

    Example:
        >>> class Model:
        ...     beta = 0.5
        ...     def __call__(self):
        ...         return self.beta
        >>> model = Model()
        >>> guard = ConstantGuard([model])
        >>> model.beta = 0.7
        >>> guard.changed()
        'beta'
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        found = _References(roots)
        self._variables = [(holder, name, holder.get(name, _MISSING)) for (_, name), holder in found.variables.items()]
        self._cells = [(cell, name, cell.cell_contents) for cell, name in found.cells.values()]
        self._items = [(items, list(_contents(items))) for items in found.containers]

    def changed(self) -> str | None:
        """Return the name of a value that has changed, or ``None``."""
        for holder, name, value in self._variables:
            if not _is_same(holder.get(name, _MISSING), value):
                return name
        for cell, name, value in self._cells:
            if not _is_same(cell.cell_contents, value):
                return name
        for items, values in self._items:
            current = list(_contents(items))
            if len(current) != len(values) or not all(map(_is_same, current, values)):
                return f"a {type(items).__name__}"
        return None

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Restore on exit the variables that were set inside; raise `CaptureError` if a number was set."""
        changes = []
        try:
            yield
        finally:
            for holder, name, value in self._variables:
                current = holder.get(name, _MISSING)
                if current is not value and isinstance(holder, dict):
                    changes.append((name, value, current))
                    holder[name] = value
                    if value is _MISSING:
                        del holder[name]
            for cell, name, value in self._cells:
                if cell.cell_contents is not value:
                    changes.append((name, value, cell.cell_contents))
                    cell.cell_contents = value
        for name, value, current in changes:
            if isinstance(value, _PLAIN) and not _is_same(current, value):
                raise CaptureError(
                    f"the step sets {name!r} to a new value each time, which a compiled step would not do: keep it in a buffer "
                    f"and change it in place, or use compile=False."
                )


class _References:
    """Finds all values that ``roots`` refer to: each function adds names, and objects may have attributes with these names."""

    def __init__(self, roots: Iterable[Any]) -> None:
        # The namespace of each global or attribute, by the id of its owner and its name.
        self.variables: dict[tuple[int, str], Mapping[str, Any]] = {}
        # The cell and the name of each variable of a closure.
        self.cells: dict[int, tuple[Any, str]] = {}
        self.containers: list[Any] = []
        self._attributes: set[str] = set()
        self._expanded: set[int] = set()
        self._reached: dict[int, Any] = {}
        for root in roots:
            self._reach(root)
        size = (-1, -1)
        while size != (len(self._reached), len(self._attributes)):
            size = len(self._reached), len(self._attributes)
            for value in list(self._reached.values()):
                # An object is visited again for every new name, everything else once.
                if not self._expand(value) and _is_users(value):
                    self._visit_object(value)

    def _reach(self, value: Any) -> None:
        if id(value) not in self._reached and not isinstance(value, (*_PLAIN, torch.Tensor)):
            self._reached[id(value)] = value
            if isinstance(value, _CONTAINERS) and len(value) <= _LARGEST_CONTAINER:
                self.containers.append(value)

    def _expand(self, value: Any) -> bool:
        """Reach the parts of a function, method, container or similar, and return whether ``value`` is one of these."""
        if not isinstance(
            value, (FunctionType, MethodType, partial, property, staticmethod, classmethod, *_CONTAINERS)
        ):
            return False
        if id(value) in self._expanded:
            return True
        self._expanded.add(id(value))
        if isinstance(value, FunctionType):
            self._visit_function(value)
        for part in _parts(value):
            self._reach(part)
        return True

    def _visit_function(self, function: FunctionType) -> None:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # the variable is not bound yet
                self._reach(cell.cell_contents)
                self.cells[id(cell)] = cell, name
        if not _is_library(function.__globals__.get("__name__")):
            names, attributes = _names(function.__code__)
            self._attributes |= attributes
            for name in names & function.__globals__.keys():
                self._add_variable(function.__globals__, name)

    def _visit_object(self, value: Any) -> None:
        classes = value.__mro__ if isinstance(value, type) else type(value).__mro__
        called = {"forward"} if isinstance(value, nn.Module) else {"__call__"}
        names: set[str] = set()
        for cls in classes:
            if not _is_library(cls.__module__):
                for name in (self._attributes | called) & vars(cls).keys():
                    self._add_variable(vars(cls), name, owner=cls)
                    names.add(name)
            elif isinstance(vars(cls).get("forward"), FunctionType):
                # The attributes that a layer of torch reads, such as the rate of a dropout layer.
                self._attributes |= _names(vars(cls)["forward"].__code__)[1]
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            # An object may later get an attribute that overrides the one of its class.
            for name in names | (self._attributes & own.keys()):
                self._add_variable(own, name)
        if isinstance(value, nn.Module):
            for child in value._modules.values():
                self._reach(child)

    def _add_variable(self, holder: Mapping[str, Any], name: str, owner: Any = None) -> None:
        self.variables[id(holder if owner is None else owner), name] = holder
        self._reach(holder.get(name))


def _names(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the names of globals and of attributes in code, including the code of nested functions."""
    names: set[str] = set()
    attributes: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(instruction.argval)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "LOAD_SUPER_ATTR"):
            attributes.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            nested_names, nested_attributes = _names(constant)
            names |= nested_names
            attributes |= nested_attributes
    return names, attributes


def _is_users(value: Any) -> bool:
    """Return whether the attributes of an object belong to the user rather than to a library."""
    if isinstance(value, nn.Module):
        return True
    if isinstance(value, ModuleType):
        return not _is_library(value.__name__)
    return not _is_library(getattr(value, "__module__", None) or type(value).__module__)


def _is_library(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in _LIBRARIES


def _parts(value: Any) -> Iterator[Any]:
    """Return the parts of methods, decorated functions and containers."""
    if isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, property):
        yield value.fget
    elif isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, _CONTAINERS):
        yield from islice(_contents(value), _LARGEST_CONTAINER)


def _contents(items: Any) -> Iterator[Any]:
    return iter(items.values() if isinstance(items, dict) else items)


def _is_same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, _PLAIN) and a == b)
