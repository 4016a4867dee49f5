"""The Python values that a model mentions: a graph keeps them, so it holds only as long as they stay the same."""

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

__all__ = ["Mentions"]

# What these mention in their own code does not change between two steps.
_LIBRARIES = frozenset({*sys.stdlib_module_names, "builtins", "numpy", "pyro", "torch"})
_PLAIN = (int, float, complex, str, bytes, type(None))
_CONTAINERS = (list, tuple, dict, set)
_MOST_ITEMS = 100
"""Longer lists and dicts are data; those that change belong into tensors."""
_GONE = object()


class Mentions:
    """What model and guide refer to by name beside their arguments: globals, closures, attributes, what is in lists and dicts.

    A number such as ``self.beta`` is a constant of a graph. To go on with the old one, when somebody has set another, would be
    a wrong answer. So it is looked for where Python looks for it: from the functions themselves, by the names in their code.

    Args:
        roots: functions, methods, modules, other objects that are called.

    Example:
        >>> class Model:
        ...     beta = 0.5
        ...     def __call__(self):
        ...         return self.beta
        >>> model = Model()
        >>> mentions = Mentions([model])
        >>> model.beta = 0.7
        >>> mentions.changed()
        'beta'
    """

    def __init__(self, roots: Iterable[Any]) -> None:
        self._slots: list[tuple[Mapping[str, Any], str, Any]] = []
        self._cells: list[tuple[Any, str, Any]] = []
        self._items: list[tuple[Any, list[Any]]] = []
        walk = _Walk(roots)
        for (_, name), holder in walk.slots.items():
            self._slots.append((holder, name, holder.get(name, _GONE)))
        for cell, name in walk.cells.values():
            self._cells.append((cell, name, cell.cell_contents))
        for items in walk.containers:
            self._items.append((items, list(_contents(items))))

    def changed(self) -> str | None:
        """Return the name of something that is not as it was, or ``None``."""
        for holder, name, value in self._slots:
            current = holder.get(name, _GONE)
            if current is not value and not _equal(current, value):
                return name
        for cell, name, value in self._cells:
            if cell.cell_contents is not value and not _equal(cell.cell_contents, value):
                return name
        for items, values in self._items:
            current = list(_contents(items))
            same = len(current) == len(values)
            if not same or any(a is not b and not _equal(a, b) for a, b in zip(current, values, strict=True)):
                return f"a {type(items).__name__}"
        return None

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Put back at exit what was set inside.

        Raises:
            CaptureError: a number was set, which a compiled step would not do.
        """
        try:
            yield
        finally:
            counted = None
            for holder, name, value in self._slots:
                current = holder.get(name, _GONE)
                if current is not value and isinstance(holder, dict):
                    counted = name if isinstance(value, _PLAIN) and not _equal(current, value) else counted
                    holder[name] = value
            for cell, name, value in self._cells:
                if cell.cell_contents is not value:
                    counted = name if isinstance(value, _PLAIN) and not _equal(cell.cell_contents, value) else counted
                    cell.cell_contents = value
        if counted is not None:
            raise CaptureError(
                f"the step sets {counted!r} to another value each time, which a compiled step would not do: keep it in a "
                f"buffer and change it in place, or leave compiling out with compile=False."
            )


class _Walk:
    """Finds what is mentioned: each new function names more, each new object has more of what is named."""

    def __init__(self, roots: Iterable[Any]) -> None:
        self.slots: dict[tuple[int, str], Mapping[str, Any]] = {}
        self.cells: dict[int, tuple[Any, str]] = {}
        self.containers: list[Any] = []
        self._attributes: set[str] = set()
        self._expanded: set[int] = set()
        self._reached: dict[int, Any] = {}
        for root in roots:
            self._reach(root)
        known = (-1, -1)
        while known != (len(self._reached), len(self._attributes)):
            known = len(self._reached), len(self._attributes)
            for value in list(self._reached.values()):
                # Objects have more to look at with every new name, all else is looked into once.
                if not self._expand(value) and self._is_users(value):
                    self._object(value)

    def _reach(self, value: Any) -> None:
        if id(value) not in self._reached and not isinstance(value, (*_PLAIN, torch.Tensor)):
            self._reached[id(value)] = value
            if isinstance(value, _CONTAINERS) and len(value) <= _MOST_ITEMS:
                self.containers.append(value)

    def _expand(self, value: Any) -> bool:
        """Reach what a function, a container or the like is made of; say whether it is one of these."""
        if not isinstance(
            value, (FunctionType, MethodType, partial, property, staticmethod, classmethod, *_CONTAINERS)
        ):
            return False
        if id(value) in self._expanded:
            return True
        self._expanded.add(id(value))
        if isinstance(value, FunctionType):
            self._function(value)
        for part in _parts(value):
            self._reach(part)
        return True

    def _is_users(self, value: Any) -> bool:
        return isinstance(value, nn.Module) or not _is_librarys(_module(value))

    def _function(self, function: FunctionType) -> None:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # a variable that has no value yet
                self._reach(cell.cell_contents)
                self.cells[id(cell)] = cell, name
        if not _is_librarys(function.__globals__.get("__name__")):
            names, attributes = _names(function.__code__)
            self._attributes |= attributes
            for name in names & function.__globals__.keys():
                self._slot(function.__globals__, name)

    def _object(self, value: Any) -> None:
        kinds = value.__mro__ if isinstance(value, type) else type(value).__mro__
        called = {"forward"} if isinstance(value, nn.Module) else {"__call__"}
        named: set[str] = set()
        for kind in kinds:
            if not _is_librarys(kind.__module__):
                for name in (self._attributes | called) & vars(kind).keys():
                    self._slot(vars(kind), name, owner=kind)
                    named.add(name)
            elif isinstance(vars(kind).get("forward"), FunctionType):
                # What a layer of torch's reads of itself, such as the rate of a dropout.
                self._attributes |= _names(vars(kind)["forward"].__code__)[1]
        own = getattr(value, "__dict__", None)
        if isinstance(own, dict):
            # What the class has, an object may come to have, and then its own counts.
            for name in named | (self._attributes & own.keys()):
                self._slot(own, name)
        if isinstance(value, nn.Module):
            for child in value._modules.values():
                self._reach(child)

    def _slot(self, holder: Mapping[str, Any], name: str, owner: Any = None) -> None:
        self.slots[id(holder if owner is None else owner), name] = holder
        self._reach(holder.get(name))


def _names(code: CodeType) -> tuple[set[str], set[str]]:
    """Return the globals and the attributes that code mentions, that of functions inside it too."""
    names: set[str] = set()
    attributes: set[str] = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            names.add(instruction.argval)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD", "STORE_ATTR", "LOAD_SUPER_ATTR"):
            attributes.add(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            more = _names(constant)
            names |= more[0]
            attributes |= more[1]
    return names, attributes


def _module(value: Any) -> Any:
    return (
        value.__name__
        if isinstance(value, ModuleType)
        else getattr(value, "__module__", None) or type(value).__module__
    )


def _is_librarys(module: Any) -> bool:
    """Whether what comes from a module is a library's, so that nobody sets it between steps."""
    return isinstance(module, str) and module.partition(".")[0] in _LIBRARIES


def _parts(value: Any) -> Iterator[Any]:
    """Return what methods, decorated functions and containers are made of."""
    if isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif isinstance(value, partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, property):
        yield value.fget
    elif isinstance(value, staticmethod | classmethod):
        yield value.__func__
    elif isinstance(value, _CONTAINERS):
        yield from islice(_contents(value), _MOST_ITEMS)


def _contents(items: Any) -> Iterator[Any]:
    return iter(items.values() if isinstance(items, dict) else items)


def _equal(a: Any, b: Any) -> bool:
    return type(a) is type(b) and isinstance(a, _PLAIN) and a == b
