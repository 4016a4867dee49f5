"""A watch on the Python values that a step uses: a graph keeps them constant, so it is invalid as soon as one has changed."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import enum
import fractions
import logging
import pathlib
import re
import sys
import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import is_, itemgetter
from types import (
    BuiltinFunctionType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    MethodWrapperType,
    ModuleType,
    WrapperDescriptorType,
)
from typing import Any

import numpy as np
import torch
from pyro.infer.elbo import ELBO
from pyro.optim import PyroOptim
from pyro.poutine.trace_struct import Trace
from torch import nn
from torch.distributions import constraints
from torch.optim import Optimizer

from amortvi.compile.capture_errors import capture_error
from amortvi.compile.svi.observation import Observation, is_library
from amortvi.errors import CaptureError

__all__ = ["Watch"]

_PLAIN = (int, float, complex, str, bytes, type(None), np.generic)
# Values of these types do not change, and those of code were seen while it ran.
_CONSTANT = (
    *_PLAIN,
    *(BuiltinFunctionType, CodeType, MethodWrapperType, WrapperDescriptorType, property, slice, range, re.Pattern),
    *(enum.Enum, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction, uuid.UUID),
    *(pathlib.PurePath, type(Ellipsis), type(NotImplemented), np.dtype, np.ufunc),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, torch.finfo, torch.iinfo),
)
_CONTAINERS = (list, tuple, dict, set, frozenset, deque, MappingProxyType)
_LARGEST_CONTAINER = 1000
_LARGEST_ARRAY = 10_000
"""The sizes up to which containers and arrays are watched; comparing larger ones would take as long as a step."""
_MISSING = object()
# Objects of libraries that hold the values of one step, or none at all.
_WITHOUT_STATE = (Trace, ELBO, PyroOptim, Optimizer, constraints.Constraint, logging.Logger)


class Watch:
    """Watches the values that model and guide refer to: globals, closures, attributes, default arguments, contents of containers.

    It starts from the code that was executed and the objects that it received, and follows the names in this code. What it
    cannot compare with its value of today is refused, rather than taken for a constant.

    Args:
        observation: what a step has used.
        roots: the callables and arguments of the step.

    Raises:
        CaptureError: a value cannot be watched; the error names it and quotes the line.

    Example:
        >>> from amortvi.compile.svi.observation import observe
        >>> class Model:
        ...     beta = 0.5
        ...     def __call__(self):
        ...         return self.beta
        >>> model = Model()
        >>> watch = Watch(observe(model)[1], [model])
        >>> model.beta = 0.7
        >>> watch.changed()
        'beta'
    """

    def __init__(self, observation: Observation, roots: Sequence[Any]) -> None:
        if observation.impure is not None:
            name, line = observation.impure
            raise _refused(f"it calls {name}, whose result may be different in each call", line)
        self._observation = observation
        self._names = observation.names
        self._reached: dict[int, Any] = {}
        self._variables: dict[tuple[int, str], _Variable] = {}
        self._containers: list[tuple[Any, list[Any], str, bool]] = []
        self._arrays: list[tuple[Any, Any, str]] = []
        for function in observation.functions():
            self._reach_function(function)
        living = (reference() for reference in observation.receivers)
        for value in (*roots, *observation.modules, *living):
            self._reach(value, getattr(value, "__name__", type(value).__name__))
        self._compile()

    def changed(self) -> str | None:
        """Return the name of a value that has changed, or ``None``."""
        for holder, get, values, names in self._groups:
            try:
                current = get(holder)
            except LookupError:
                return next(name for name in names if name not in holder)
            if not all(map(is_, current, values)):
                for name, now, value in zip(names, current, values, strict=True):
                    if not _is_same(now, value):
                        return name
        for variable in self._others:
            if not _is_same(variable.read(), variable.value):
                return variable.name
        if any(self._empty):
            return next(name for container, name in zip(self._empty, self._empty_names, strict=True) if container)
        for container, contents, name, _ in self._filled:
            current = _contents(container)
            if len(current) != len(contents) or not (all(map(is_, current, contents)) or all(map(_is_same, current, contents))):
                return name
        for array, values, name in self._arrays:
            if not np.array_equal(array, values, equal_nan=array.dtype.kind in "fc"):
                return name
        return None

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Restore on exit what was changed inside; raise `CaptureError` if the step changes a value that its code uses.

        Objects of libraries may keep what belongs to one step, such as the current subsample of a plate; it is not watched.
        """
        try:
            yield
        finally:
            changed = [variable for variable in self._variables.values() if not _is_same(variable.read(), variable.value)]
            for variable in changed:
                variable.write()
            filled = []
            for container, contents, name, library in list(self._containers):
                current = _contents(container)
                if len(current) != len(contents) or not all(map(_is_same, current, contents)):
                    _refill(container, contents)
                    if library:
                        self._containers.remove((container, contents, name, library))
                    else:
                        filled.append(name)
        used = [variable.name for variable in changed if not variable.is_library and isinstance(variable.value, _PLAIN)]
        for name in (*used, *filled):
            raise _refused(
                f"it changes {name!r} in each step, which a recorded step would not do: keep what changes in a buffer and change "
                f"it in place",
                self._observation.line_of(name),
            )
        for variable in changed:
            del self._variables[variable.key]
        self._compile()

    def _compile(self) -> None:
        """Arrange the values so that comparing them takes little time."""
        holders: dict[int, list[_Variable]] = {}
        self._others = []
        for variable in self._variables.values():
            if variable.value is _MISSING or not isinstance(variable.holder, dict | MappingProxyType):
                self._others.append(variable)
            else:
                holders.setdefault(id(variable.holder), []).append(variable)
        self._groups = [
            (group[0].holder, _getter([v.name for v in group]), [v.value for v in group], [v.name for v in group])
            for group in holders.values()
        ]
        self._empty = [container for container, contents, *_ in self._containers if not contents]
        self._empty_names = [name for _, contents, name, _ in self._containers if not contents]
        self._filled = [each for each in self._containers if each[1]]

    def _reach(self, value: Any, name: str, *, library: bool = False) -> None:
        """Watch everything that a value refers to."""
        if value is _MISSING or id(value) in self._reached or isinstance(value, (*_CONSTANT, torch.Tensor)):
            return
        self._reached[id(value)] = value
        if isinstance(value, _CONTAINERS):
            self._reach_container(value, name, library=library)
        elif isinstance(value, np.ndarray):
            self._reach_array(value, name)
        elif isinstance(value, FunctionType):
            if value.__code__ in self._observation.codes:
                self._reach_function(value)
            elif is_library(value.__module__) and value.__closure__:
                self._reach_closure(value)  # such as the function that a handler of Pyro returns
        elif isinstance(value, MethodType):
            self._reach(value.__func__, name)
            self._reach(value.__self__, name)
        elif isinstance(value, partial):
            for part in (value.func, value.args, value.keywords):
                self._reach(part, name)
        elif isinstance(value, ModuleType):
            self._reach_names(vars(value), value, library=is_library(value.__name__))
        elif isinstance(value, type):
            self._reach_class(value)
        elif not isinstance(value, staticmethod | classmethod | weakref.ref):
            self._reach_object(value, name)

    def _reach_function(self, function: FunctionType) -> None:
        self._reached[id(function)] = function
        self._reach_closure(function)
        for attribute in ("__defaults__", "__kwdefaults__", "__code__"):
            self._add(function, attribute)
        names = self._names & vars(function).keys()
        for name in names:
            self._add(vars(function), name)
        variables = function.__globals__
        for name in function.__code__.co_names:
            if name in variables:
                if _draws_with_numpy(variables[name], function.__code__):
                    raise _refused("it draws random numbers with NumPy; draw them with torch", self._observation.line_of(name))
                self._add(variables, name)
            for imported in (sys.modules.get(name), sys.modules.get(f"{variables.get('__package__')}.{name}")):
                if imported is not None and not is_library(imported.__name__):
                    self._reach(imported, name)

    def _reach_closure(self, function: FunctionType) -> None:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # the variable is not bound yet
                self._add(_Cell(cell), name, key=id(cell))

    def _reach_class(self, cls: type) -> None:
        for base in cls.__mro__:
            if not is_library(base.__module__):
                self._reach_names(vars(base), base, library=False)

    def _reach_names(self, holder: Any, owner: Any, *, library: bool) -> None:
        for name in self._names & holder.keys():
            value = holder[name]
            if not library:
                self._add(holder, name, key=id(owner))
            elif not isinstance(value, type | FunctionType | ModuleType) and not callable(value):
                self._add(holder, name, key=id(owner), library=True)

    def _reach_object(self, value: Any, name: str) -> None:
        cls = type(value)
        attributes = getattr(value, "__dict__", None)
        slots = [slot for base in cls.__mro__ for slot in _slots(base)]
        library = is_library(cls.__module__)
        if library and isinstance(value, _WITHOUT_STATE):
            return
        if attributes is None and not slots:
            raise _refused(
                f"it uses {name!r}, of type {cls.__module__}.{cls.__qualname__}, whose changes cannot be detected",
                self._observation.line_of(name),
            )
        self._reach_class(cls)
        for slot in slots:
            self._add(value, slot)
        if isinstance(attributes, dict):
            everything = library or self._observation.reads_by_name
            chosen = attributes.keys() if everything else self._names & (attributes.keys() | _class_names(cls))
            for attribute in list(chosen):
                self._add(attributes, attribute, library=library)
        if isinstance(value, nn.Module):
            for child in value._modules.values():
                self._reach(child, name)

    def _reach_container(self, container: Any, name: str, *, library: bool) -> None:
        if len(container) > _LARGEST_CONTAINER:
            raise _refused(
                f"it uses {name!r}, a {type(container).__name__} of {len(container)} items, which are too many to compare in each "
                f"step: keep them in a tensor, or pass them as an argument",
                self._observation.line_of(name),
            )
        contents = _contents(container)
        if not isinstance(container, tuple | frozenset):
            self._containers.append((container, contents, name, library))
        for item in contents:
            self._reach(item, name, library=library)

    def _reach_array(self, array: Any, name: str) -> None:
        if array.size > _LARGEST_ARRAY or array.dtype == object:
            raise _refused(
                f"it uses {name!r}, an array of {array.size} elements, which are too many to compare in each step: convert it to "
                f"a tensor once, outside the model",
                self._observation.line_of(name),
            )
        self._arrays.append((array, array.copy(), name))

    def _add(self, holder: Any, name: str, *, key: int | None = None, library: bool = False) -> None:
        variable = _Variable(holder, name, (id(holder) if key is None else key, name), library)
        if variable.key not in self._variables:
            self._variables[variable.key] = variable
            self._reach(variable.value, name, library=library)


class _Cell:
    """A variable of a closure, as an attribute of any name."""

    def __init__(self, cell: Any) -> None:
        object.__setattr__(self, "_cell", cell)

    def __getattr__(self, name: str) -> Any:
        try:
            return self._cell.cell_contents
        except ValueError as error:
            raise AttributeError(name) from error

    def __setattr__(self, name: str, value: Any) -> None:
        self._cell.cell_contents = value


class _Variable:
    """A global, an attribute or another name, and the value that it had."""

    def __init__(self, holder: Any, name: str, key: tuple[int, str], is_library: bool) -> None:
        self.holder = holder
        self.name = name
        self.key = key
        self.is_library = is_library
        self.value = self.read()

    def read(self) -> Any:
        if isinstance(self.holder, dict | MappingProxyType):
            return self.holder.get(self.name, _MISSING)
        return getattr(self.holder, self.name, _MISSING)

    def write(self) -> None:
        """Restore the value."""
        if isinstance(self.holder, MappingProxyType):
            return
        if not isinstance(self.holder, dict):
            setattr(self.holder, self.name, self.value)
        elif self.value is _MISSING:
            self.holder.pop(self.name, None)
        else:
            self.holder[self.name] = self.value


def _refused(reason: str, line: str | None) -> CaptureError:
    return capture_error(reason, line)


def _draws_with_numpy(value: Any, code: CodeType) -> bool:
    """Return whether a global is a random number generator of NumPy, or the module of its functions."""
    if value is np:
        return "random" in code.co_names
    return value is np.random or isinstance(
        getattr(value, "__self__", value), np.random.RandomState | np.random.Generator
    )


def _getter(names: list[str]) -> Callable[[Any], Sequence[Any]]:
    get = itemgetter(*names)
    return get if len(names) > 1 else lambda holder: (get(holder),)


def _slots(cls: type) -> tuple[str, ...]:
    if is_library(cls.__module__):
        return ()
    slots = vars(cls).get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _class_names(cls: type) -> set[str]:
    """Return the names that an attribute of an object would hide."""
    return {name for base in cls.__mro__ if not is_library(base.__module__) for name in vars(base)}


def _contents(container: Any) -> list[Any]:
    if isinstance(container, dict | MappingProxyType):
        return [*container, *container.values()]
    return list(container)


def _refill(container: Any, contents: list[Any]) -> None:
    """Restore the contents of a container."""
    if isinstance(container, dict):
        half = len(contents) // 2
        container.clear()
        container.update(zip(contents[:half], contents[half:], strict=True))
    elif isinstance(container, list | deque):
        container.clear()
        container.extend(contents)
    elif isinstance(container, set):
        container.clear()
        container.update(contents)


def _is_same(a: Any, b: Any) -> bool:
    return a is b or (type(a) is type(b) and isinstance(a, _PLAIN) and bool(a == b))
