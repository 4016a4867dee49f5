"""Pyro's name SVI, bound to the SVI of amortvi for some time, for code that constructs its SVI itself."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from pyro.infer import SVI as PyroSVI  # noqa: N811  # a class, although in capitals

from amortvi.compile.svi.svi import SVI

__all__ = ["install"]


@contextlib.contextmanager
def install(**options: Any) -> Iterator[type[SVI]]:
    """Let every module that has imported Pyro's `SVI`, including Pyro's own such as `Forecaster`, use that of amortvi instead.

    Args:
        options: defaults for `compile`, `compile_after` and `verify` of the `SVI` objects constructed in the context.

    Returns:
        The class that is used: a subclass of `amortvi.SVI` with these defaults.

    Example:
        >>> import pyro
        >>> original = pyro.infer.SVI
        >>> with install(compile_after=5) as installed:
        ...     pyro.infer.SVI is installed
        True
        >>> pyro.infer.SVI is original
        True
    """

    class InstalledSVI(SVI):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**options, **kwargs})

    InstalledSVI.__name__ = InstalledSVI.__qualname__ = "SVI"
    replaced = [
        (vars(module), name)
        for module in list(sys.modules.values())
        if not getattr(module, "__name__", "").startswith("amortvi.")
        for name, value in list(getattr(module, "__dict__", {}).items())
        if value is PyroSVI
    ]
    for namespace, name in replaced:
        namespace[name] = InstalledSVI
    try:
        yield InstalledSVI
    finally:
        for namespace, name in replaced:
            if namespace.get(name) is InstalledSVI:
                namespace[name] = PyroSVI
