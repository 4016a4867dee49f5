"""Python values as they are at one time: variables, containers and arrays, which can be compared with what they are now."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from operator import is_, itemgetter
from types import MappingProxyType
from typing import Any

import numpy as np

__all__ = ["MISSING", "PLAIN", "Reader", "Snapshot", "Variable"]

PLAIN = (int, float, complex, str, bytes, type(None), np.generic)
"""Types whose values are compared by equality; all others, by identity."""

MISSING = object()
"""The value of a variable that does not exist."""

_NAMESPACES = (dict, MappingProxyType)


class Reader:
    """Has one attribute of any name, whose value is computed when it is read, and may be set."""

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], None] | None = None) -> None:
        self.read = read
        self.write = write


class Variable:
    """A global, an attribute, a variable of a closure or something similar, and the value that it had.

    Args:
        holder: the namespace, object or `Reader` that it belongs to.
        name: its name.
        key: identifies it.
        is_library: whether it belongs to an object of a library.
    """

    def __init__(self, holder: Any, name: str, key: tuple[int, str], is_library: bool) -> None:
        self.holder = holder
        self.name = name
        self.key = key
        self.is_library = is_library
        self.value = self.read()

    def read(self) -> Any:
        """Return the current value."""
        if isinstance(self.holder, _NAMESPACES):
            return self.holder.get(self.name, MISSING)
        if isinstance(self.holder, Reader):
            return self.holder.read()
        try:
            return object.__getattribute__(self.holder, self.name)
        except AttributeError:
            return MISSING

    def restore(self) -> None:
        """Set the value to what it was."""
        if isinstance(self.holder, Reader):
            if self.holder.write is not None:
                self.holder.write(self.value)
        elif isinstance(self.holder, dict):
            if self.value is MISSING:
                self.holder.pop(self.name, None)
            else:
                self.holder[self.name] = self.value
        elif not isinstance(self.holder, MappingProxyType):
            object.__setattr__(self.holder, self.name, self.value)


class Snapshot:
    """Values that are compared in each step, arranged so that this takes little time.

    Example:
        >>> settings = {"beta": 0.5}
        >>> snapshot = Snapshot()
        >>> snapshot.add(Variable(settings, "beta", (0, "beta"), is_library=False))
        >>> snapshot.arrange()
        >>> snapshot.changed() is None
        True
        >>> settings["beta"] = 0.7
        >>> snapshot.changed()
        'beta'
    """

    def __init__(self) -> None:
        self.variables: dict[tuple[int, str], Variable] = {}
        self._containers: list[tuple[Any, list[Any], str, bool]] = []
        self._arrays: list[tuple[Any, Any, str]] = []
        self.arrange()

    def add(self, variable: Variable) -> None:
        """Add a variable, unless it is already there."""
        self.variables.setdefault(variable.key, variable)

    def add_container(self, container: Any, name: str, *, library: bool) -> list[Any]:
        """Add a container, and return its contents."""
        contents = _contents(container)
        self._containers.append((container, contents, name, library))
        return contents

    def add_array(self, array: Any, name: str) -> None:
        """Add a copy of an array of NumPy."""
        self._arrays.append((array, array.copy(), name))

    def arrange(self) -> None:
        """Group what was added: a whole group is compared in one call."""
        holders: dict[int, list[Variable]] = {}
        self._others = []
        for variable in self.variables.values():
            if variable.value is MISSING or not isinstance(variable.holder, _NAMESPACES):
                self._others.append(variable)
            else:
                holders.setdefault(variable.key[0], []).append(variable)
        self._groups = [
            (group[0].holder, _getter([v.name for v in group]), [v.value for v in group], [v.name for v in group])
            for group in holders.values()
        ]
        self._empty = [each for each in self._containers if not each[1]]
        self._empty_containers = [each[0] for each in self._empty]
        self._filled = [each for each in self._containers if each[1]]

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
        if any(self._empty_containers):
            return next(name for container, _, name, _ in self._empty if container)
        for container, contents, name, _ in self._filled:
            if not _same_contents(container, contents):
                return name
        for array, values, name in self._arrays:
            if not np.array_equal(array, values, equal_nan=array.dtype.kind in "fc"):
                return name
        return None

    def restore(self) -> list[str]:
        """Restore everything that has changed, and return the names of the values that are the user's and plain.

        What belongs to objects of libraries may change in each step, such as the current subsample of a plate; it is compared
        no longer.
        """
        names = []
        for variable in list(self.variables.values()):
            if not _is_same(variable.read(), variable.value):
                variable.restore()
                if not variable.is_library and isinstance(variable.value, PLAIN):
                    names.append(variable.name)
                del self.variables[variable.key]
        for each in list(self._containers):
            container, contents, name, library = each
            if not _same_contents(container, contents):
                _refill(container, contents)
                if not library:
                    names.append(name)
                self._containers.remove(each)
        self.arrange()
        return names


def _getter(names: list[str]) -> Callable[[Any], Sequence[Any]]:
    get = itemgetter(*names)
    return get if len(names) > 1 else lambda holder: (get(holder),)


def _contents(container: Any) -> list[Any]:
    if isinstance(container, _NAMESPACES):
        return [*container, *container.values()]
    return list(container)


def _same_contents(container: Any, contents: list[Any]) -> bool:
    current = _contents(container)
    return len(current) == len(contents) and (all(map(is_, current, contents)) or all(map(_is_same, current, contents)))


def _refill(container: Any, contents: list[Any]) -> None:
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
    if a is b:
        return True
    if type(a) is not type(b) or not issubclass(type(a), PLAIN):
        return False
    return bool(a == b) and (not isinstance(a, float) or math.copysign(1, a) == math.copysign(1, b))
