"""Arguments and results as bytes."""

from __future__ import annotations

import importlib
import io
import pickle
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import torch

from amortvi.errors import OptionError, quoted

__all__ = ["packed", "packed_arguments", "unpacked"]

_PROTOCOL = 5
_INSTALL = (
    "Install cloudpickle, which can send what is defined in a notebook or inside a function (pip install cloudpickle), or define "
    "it at the top level of a module that the workers can import."
)
_AVOID = (
    "Objects such as open files, locks and generators belong to one process: make them where they are used, for example when "
    "the first batch is read."
)


def packed_arguments(arguments: Mapping[str, Any]) -> bytes:
    """Serialize named arguments; objects that several of them share stay shared.

    Raises:
        OptionError: one of them cannot be serialized; the message names it.
    """
    try:
        return packed(dict(arguments))
    except Exception as error:  # an object can raise anything when it is serialized
        name = _culprit(arguments) or "an argument"
        cure = _INSTALL if _pickle_module() is pickle else _AVOID
        raise OptionError(f"{name} cannot be sent to the workers of the executor: {quoted(error)}. {cure}") from error


def packed(value: Any) -> bytes:
    """Serialize an object. Tensors that share memory continue to share it."""
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_module=_pickle_module(), pickle_protocol=_PROTOCOL)
    return buffer.getvalue()


def unpacked(data: bytes) -> Any:
    """Return the object; code that it refers to is imported.

    Raises:
        OptionError: something that it refers to is missing in this process.
    """
    try:
        return torch.load(io.BytesIO(data), weights_only=False)  # from the other side of the same call
    except (AttributeError, ImportError) as error:
        raise OptionError(
            f"a worker of the executor cannot load what it was sent: {quoted(error)}. {_INSTALL}"
        ) from error


def _pickle_module() -> ModuleType:
    """Return cloudpickle if it is installed, which sends code that cannot be imported as well."""
    try:
        return importlib.import_module("cloudpickle")
    except ImportError:
        return pickle


def _culprit(arguments: Mapping[str, Any]) -> str | None:
    """Return the name of the first value that cannot be serialized, inside a dictionary if it is in one."""
    for name, value in arguments.items():
        try:
            packed(value)
        except Exception:  # as above
            return (_culprit(value) if isinstance(value, Mapping) else None) or name
    return None
