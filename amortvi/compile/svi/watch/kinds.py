"""Kinds of Python values: which of them cannot change, and where others keep what can."""

from __future__ import annotations

import datetime
import decimal
import enum
import fractions
import functools
import logging
import pathlib
import re
import uuid
from collections import deque
from types import (
    BuiltinFunctionType,
    CodeType,
    MappingProxyType,
    MethodType,
    MethodWrapperType,
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
from torch.nn.modules import module as torch_modules
from torch.optim import Optimizer

from amortvi.compile.svi.watch.libraries import is_library
from amortvi.compile.svi.watch.snapshot import PLAIN

__all__ = [
    "CONSTANT",
    "CONTAINERS",
    "GLOBAL_HOOKS",
    "LARGEST_ARRAY",
    "LARGEST_CONTAINER",
    "LRU_CACHE",
    "MODULE_STATE",
    "WITHOUT_STATE",
    "attributes_of",
    "bases",
    "class_names",
    "draws_with_numpy",
    "slots",
]

LRU_CACHE = type(functools.lru_cache(lambda: None))
# Values of these types do not change, and those of code were seen while it ran.
CONSTANT = (
    *PLAIN,
    *(BuiltinFunctionType, CodeType, MethodWrapperType, WrapperDescriptorType, property, slice, range, re.Pattern),
    *(enum.Enum, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction, uuid.UUID),
    *(pathlib.PurePath, type(Ellipsis), type(NotImplemented), np.dtype, np.ufunc),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size, torch.finfo, torch.iinfo),
)
CONTAINERS = (list, tuple, dict, set, frozenset, deque, MappingProxyType)
LARGEST_CONTAINER = 1000
LARGEST_ARRAY = 10_000
"""The sizes up to which containers and arrays are compared; comparing larger ones would take as long as a step."""
# Objects of libraries that hold the values of one step, or none at all.
WITHOUT_STATE = (Trace, ELBO, PyroOptim, Optimizer, constraints.Constraint, logging.Logger)
# What torch and Pyro keep in each module: parameters, hooks, priors.
MODULE_STATE = frozenset({*vars(nn.Module()), "_pyro_params", "_pyro_samples"})
# The hooks that torch calls for every module.
GLOBAL_HOOKS = [
    value for name, value in vars(torch_modules).items() if name.startswith("_global_") and isinstance(value, dict)
]


def attributes_of(value: Any) -> dict[str, Any] | None:
    """Return the attributes of an object, whatever its class does when they are read."""
    try:
        found = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return found if isinstance(found, dict) else None


def draws_with_numpy(value: Any, code: CodeType) -> bool:
    """Return whether a global is a random number generator of NumPy, or the module of its functions."""
    if value is np:
        return "random" in code.co_names
    generators = np.random.RandomState | np.random.Generator
    owner = value.__self__ if type(value) in (BuiltinFunctionType, MethodType) else value
    return value is np.random or issubclass(type(owner), generators)


def slots(cls: type) -> tuple[str, ...]:
    """Return the names of the attributes in the slots that a class of the user declares."""
    if is_library(cls.__module__):
        return ()
    declared = vars(cls).get("__slots__", ())
    names = (declared,) if isinstance(declared, str) else tuple(declared)
    return tuple(
        f"_{cls.__name__.lstrip('_')}{name}" if name.startswith("__") and not name.endswith("__") else name
        for name in names
        if name not in ("__dict__", "__weakref__")
    )


def class_names(cls: type) -> set[str]:
    """Return the names that the classes of an object define; an attribute of the object may hide them."""
    return {name for base in bases(cls) if not is_library(base.__module__) for name in vars(base)}


def bases(cls: type) -> list[type]:
    """Return the classes in which an attribute of a class, or of its objects, is looked up."""
    return [*cls.__mro__, *type(cls).__mro__]  # type: ignore[misc]  # mypy takes the second __mro__ for a property
