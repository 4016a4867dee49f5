"""Options kept in one frozen dataclass, which a method accepts field by field as keyword arguments."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
from collections.abc import Callable
from textwrap import indent
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from amortvi.errors import OptionError

__all__ = ["accepts_options", "make_options", "options_repr"]

P = ParamSpec("P")
Options = TypeVar("Options")
Owner = TypeVar("Owner")
Result = TypeVar("Result")


def accepts_options(
    options: Callable[P, Options],
) -> Callable[[Callable[[Owner, Any, Options], Result]], Callable[Concatenate[Owner, Any, P], Result]]:
    """Let ``method(self, x, options)`` be called as ``method(self, x, **fields)``.

    ``options`` is a frozen, keyword-only dataclass. Its fields become the signature of the method, and its ``Args`` section
    replaces the entry ``options`` in the docstring of the method, so a new option is one new field.
    """

    def decorate(method: Callable[[Owner, Any, Options], Result]) -> Callable[Concatenate[Owner, Any, P], Result]:
        @functools.wraps(method)
        def accepting(self: Owner, x: Any, *args: P.args, **kwargs: P.kwargs) -> Result:
            return method(self, x, make_options(options, *args, **kwargs))

        own, fields = inspect.signature(method), inspect.signature(options)
        kept = [parameter for name, parameter in own.parameters.items() if name != "options"]
        signature = own.replace(parameters=[*kept, *fields.parameters.values()])
        accepting.__signature__ = signature  # type: ignore[attr-defined]  # read by inspect
        accepting.__doc__ = _with_fields(method.__doc__, options)
        return cast(Callable[Concatenate[Owner, Any, P], Result], accepting)

    return decorate


def make_options(options: Callable[P, Options], *args: P.args, **kwargs: P.kwargs) -> Options:
    """Construct an options dataclass; an unknown option raises `OptionError` with the closest known name."""
    known = inspect.signature(options).parameters
    for name in kwargs:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {close[0]}?" if close else f" The options are {', '.join(known)}."
            raise OptionError(f"{name} is not an option.{hint}")
    return options(*args, **kwargs)


def _with_fields(method: str | None, options: Callable[..., Any]) -> str | None:
    """Replace the entry ``options`` of a docstring with the ``Args`` sections of a class and its bases."""
    if method is None:  # python -OO removes docstrings
        return None
    sections = [
        re.search(r"Args:\n(.*?)\n\n", inspect.cleandoc(each.__doc__ or "") + "\n\n", re.DOTALL)
        for each in reversed(inspect.getmro(cast(type, options)))
    ]
    described = "\n".join(section[1] for section in sections if section is not None)
    # Python 3.13 removes the indentation of the whole docstring, and earlier ones keep it.
    return re.sub(
        r"^( *)    options: .*$", lambda found: indent(described, found[1]), method, count=1, flags=re.MULTILINE
    )


def options_repr(instance: object) -> str:
    """Return the class with the constructor options that are required or differ from their defaults.

    As in scikit-learn, each option must be stored in an attribute of the same name.

    Example:
        >>> class Loss:
        ...     def __init__(self, power, *, weight=1.0):
        ...         self.power, self.weight = power, weight
        >>> options_repr(Loss(2)), options_repr(Loss(2, weight=0.5))
        ('Loss(power=2)', 'Loss(power=2, weight=0.5)')
    """
    shown = []
    for name, parameter in inspect.signature(type(instance)).parameters.items():
        value = getattr(instance, name)
        if parameter.default is inspect.Parameter.empty or (
            value is not parameter.default and value != parameter.default
        ):
            shown.append(f"{name}={getattr(value, '__name__', None) or repr(value)}")
    return f"{type(instance).__name__}({', '.join(shown)})"
