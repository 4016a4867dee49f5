"""A watch on the Python values that a step uses: a graph keeps them constant, so it is invalid as soon as one has changed."""

from __future__ import annotations

import builtins
import contextlib
import sys
import weakref
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from types import CellType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from amortvi.compile.capture_errors import capture_error
from amortvi.compile.svi.watch.kinds import (
    CONSTANT,
    CONTAINERS,
    GLOBAL_HOOKS,
    LARGEST_ARRAY,
    LARGEST_CONTAINER,
    LRU_CACHE,
    MODULE_STATE,
    WITHOUT_STATE,
    attributes_of,
    bases,
    class_names,
    draws_with_numpy,
    slots,
)
from amortvi.compile.svi.watch.libraries import is_library
from amortvi.compile.svi.watch.observation import Observation
from amortvi.compile.svi.watch.snapshot import MISSING, Reader, Snapshot, Variable
from amortvi.errors import CaptureError

__all__ = ["Watch"]

# Methods that code calls without naming them.
_IMPLICIT = frozenset({"__call__", "__enter__", "__exit__", "__getattr__", "__getattribute__", "__getitem__"})


class Watch:
    """Watches the values that model and guide refer to: globals, closures, attributes, default arguments, contents of containers.

    It starts from the code that was executed and the objects that it received, and follows the names in this code. What it
    cannot compare with its value of today is refused, rather than taken for a constant.

    Args:
        observation: what a step has used.
        roots: the callables and arguments of the step.

    Attributes:
        tensors: the tensors among these values; their own values may change, but not their shapes.

    Raises:
        CaptureError: a value cannot be watched; the error names it and quotes the line.

    Example:
        >>> import types
        >>> from amortvi.compile.svi.watch.observation import observe
        >>> options = types.SimpleNamespace(beta=0.5)
        >>> watch = Watch(observe(lambda: None)[1], [options])
        >>> options.beta = 0.7
        >>> watch.changed()
        'beta'
    """

    def __init__(self, observation: Observation, roots: Sequence[Any]) -> None:
        if observation.impure is not None:
            name, line = observation.impure
            raise capture_error(f"it calls {name}, whose result may be different in each call", line)
        self._observation = observation
        self._names = observation.names | _IMPLICIT
        self.tensors: list[torch.Tensor] = []
        self._reached: dict[int, Any] = {}
        self._snapshot = Snapshot()
        for code, variables in observation.codes.items():
            self._reach_globals(code, variables)
        for function in observation.functions():
            self._reach_function(function)
        living = (reference() for reference in observation.receivers)
        for value in (*roots, *observation.modules, *living):
            self._reach(value, type(value).__name__)
        for hooks in GLOBAL_HOOKS:
            self._reach(hooks, "a hook of all modules", library=True)
        self._snapshot.arrange()

    def changed(self) -> str | None:
        """Return the name of a value that has changed, or ``None``."""
        return self._snapshot.changed()

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Restore on exit what was changed inside; raise `CaptureError` if the step changes a value that its code uses."""
        try:
            yield
        finally:
            changed = self._snapshot.restore()
        for name in changed:
            raise self._refused(
                f"it changes {name!r} in each step, which a recorded step would not do: keep what changes in a buffer and change "
                f"it in place",
                name,
            )

    def _refused(self, reason: str, name: str) -> CaptureError:
        return capture_error(reason, self._observation.line_of(name))

    def _add(self, holder: Any, name: str, *, key: int | None = None, library: bool = False) -> None:
        """Watch a variable, and everything that its value refers to."""
        variable = Variable(holder, name, (id(holder) if key is None else key, name), library)
        if variable.key not in self._snapshot.variables:
            self._snapshot.add(variable)
            self._reach(variable.value, name, library=library)

    def _reach(self, value: Any, name: str, *, library: bool = False) -> None:
        """Watch everything that a value refers to."""
        kind = type(value)  # not isinstance, which asks the object for its class
        if value is MISSING or id(value) in self._reached or issubclass(kind, CONSTANT):
            return
        self._reached[id(value)] = value
        if issubclass(kind, CONTAINERS):
            self._reach_container(value, name, library=library)
        elif issubclass(kind, torch.Tensor):
            self.tensors.append(value)
            for attribute in self._names & vars(value).keys():
                self._add(vars(value), attribute)
        elif issubclass(kind, np.ndarray):
            self._reach_array(value, name)
        elif issubclass(kind, FunctionType):
            if value.__code__ in self._observation.codes:
                self._reach_function(value)
            elif is_library(value.__globals__.get("__name__")):
                self._reach_closure(value)  # such as the function that a handler of Pyro returns
        elif issubclass(kind, MethodType):
            self._reach(value.__func__, name, library=library)
            self._reach(value.__self__, name, library=library)
        elif issubclass(kind, partial):
            for part in ("func", "args", "keywords"):
                self._add(value, part)
        elif issubclass(kind, LRU_CACHE):
            # Its results change only when it computes one, or forgets all.
            self._add(Reader(lambda: str(value.cache_info()[1::2])), name, key=id(value))
            self._reach(value.__wrapped__, name)
        elif issubclass(kind, ModuleType):
            self._reach_names(vars(value), value, library=is_library(value.__name__))
        elif issubclass(kind, type):
            self._reach_class(value)
        elif not issubclass(kind, staticmethod | classmethod) and not (library and issubclass(kind, weakref.ref)):
            self._reach_object(value, name, is_part=library)

    def _reach_globals(self, code: CodeType, variables: dict[str, Any]) -> None:
        """Watch what executed code refers to by name: globals, and modules that it imports."""
        for name in code.co_names:
            if name in variables:
                if draws_with_numpy(variables[name], code):
                    raise self._refused("it draws random numbers with NumPy; draw them with torch", name)
                self._add(variables, name)
            elif name in vars(builtins):
                self._add(vars(builtins), name)
            for imported in (sys.modules.get(name), sys.modules.get(f"{variables.get('__package__')}.{name}")):
                if imported is not None and not is_library(imported.__name__):
                    self._reach(imported, name)

    def _reach_function(self, function: FunctionType) -> None:
        self._reached[id(function)] = function
        self._reach_closure(function)
        for attribute in ("__defaults__", "__kwdefaults__", "__code__"):
            self._add(function, attribute)
        for name in self._names & vars(function).keys():
            self._add(vars(function), name)

    def _reach_closure(self, function: FunctionType) -> None:
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # the variable is not bound yet
                self._reach_cell(cell, name)

    def _reach_cell(self, cell: CellType, name: str) -> None:
        def write(value: Any) -> None:
            cell.cell_contents = value

        self._add(Reader(lambda: cell.cell_contents, write), name, key=id(cell))

    def _reach_class(self, cls: type) -> None:
        """Watch what the code refers to in a class, its bases and its metaclass, including what hides an attribute of a base."""
        for base in bases(cls):
            if not is_library(base.__module__):
                for name in self._names & class_names(cls):
                    self._add(vars(base), name, key=id(base))

    def _reach_names(self, holder: Any, owner: Any, *, library: bool) -> None:
        for name in self._names & holder.keys():
            value = holder[name]
            if not library or not (callable(value) or isinstance(value, ModuleType)):
                self._add(holder, name, key=id(owner), library=library)

    def _reach_object(self, value: Any, name: str, *, is_part: bool = False) -> None:
        cls, attributes = type(value), attributes_of(value)
        library = is_library(cls.__module__)
        slotted = [slot for base in cls.__mro__ for slot in slots(base)]
        if library and issubclass(cls, WITHOUT_STATE):
            return
        if attributes is None and not slotted and not issubclass(cls, CONTAINERS):
            if is_part:
                return  # such as a lock of torch, or the generator of a context manager
            raise self._refused(
                f"it uses {name!r}, of type {cls.__module__}.{cls.__qualname__}, whose changes cannot be detected", name
            )
        if not library:
            self._add(Reader(lambda: type(value)), name, key=id(value))
        self._reach_class(cls)
        for slot in slotted:
            self._add(value, slot)
        if attributes is None:
            return
        if library:
            for attribute in list(attributes):
                self._add(attributes, attribute, library=True)
        if not library or issubclass(cls, Namespace | SimpleNamespace):
            if self._observation.reads_by_name and not issubclass(cls, nn.Module):
                self._reach(attributes, name)
            known = attributes.keys() | class_names(cls) | self._observation.strings
            for attribute in self._names & known:
                self._add(attributes, attribute)
        if issubclass(cls, nn.Module):
            for attribute in MODULE_STATE & attributes.keys():
                self._add(attributes, attribute, library=True)
            self._add(attributes, "forward")
            for child in value._modules.values():
                self._reach(child, name)

    def _reach_container(self, container: Any, name: str, *, library: bool) -> None:
        if len(container) > LARGEST_CONTAINER:
            raise self._refused(
                f"it uses {name!r}, a {type(container).__name__} of {len(container)} items, which are too many to compare in "
                f"each step: keep them in a tensor, or pass them as an argument",
                name,
            )
        if issubclass(type(container), tuple | frozenset):
            contents = list(container)
        else:
            contents = self._snapshot.add_container(container, name, library=library)
        for item in contents:
            self._reach(item, name, library=library)
        if isinstance(container, defaultdict):
            self._add(Reader(lambda: container.default_factory), name, key=id(container))
        if not is_library(type(container).__module__):
            self._reach_object(container, name)

    def _reach_array(self, array: Any, name: str) -> None:
        if array.size > LARGEST_ARRAY or array.dtype == object:
            raise self._refused(
                f"it uses {name!r}, an array of {array.size} elements, which are too many to compare in each step: convert it to "
                f"a tensor once, outside the model",
                name,
            )
        self._snapshot.add_array(array, name)
