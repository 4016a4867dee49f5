"""Packages that are imported at first use, because each takes about as long to import as Pyro itself.

Write ``from amortvi._util.lazy import pandas as pd`` in place of ``import pandas as pd``.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from amortvi.errors import MissingDependencyError

if TYPE_CHECKING:
    import arviz
    import pandas
    import xarray
    from scipy import special, stats

__all__ = ["arviz", "pandas", "require", "special", "stats", "xarray"]


class _LazyModule(ModuleType):
    """Stands for a module until one of its attributes is read."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self.__name__), name)


if not TYPE_CHECKING:
    arviz = _LazyModule("arviz")
    pandas = _LazyModule("pandas")
    xarray = _LazyModule("xarray")
    special = _LazyModule("scipy.special")
    stats = _LazyModule("scipy.stats")


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency, or raise `MissingDependencyError` with the ``extra`` of amortvi that installs it.

    ``purpose`` is the subject of the message: the feature that needs the module.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(
            f"{purpose} needs {package}, which is not installed: pip install 'amortvi[{extra}]'."
        ) from error
