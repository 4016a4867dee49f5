"""How an object with options is shown in tables, exports and messages."""

from __future__ import annotations

import inspect

__all__ = ["options_repr"]


def options_repr(instance: object) -> str:
    """Return the class and those constructor options that are required or differ from their defaults.

    As in scikit-learn, each option must be an attribute of the same name.

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
