"""What is known of the functions of libraries that the user's code calls: which of them depend on their arguments only."""

from __future__ import annotations

import sys

__all__ = ["READS_BY_NAME", "REFLECTIVE", "WRAPPERS", "is_impure", "is_library"]

# fmt: off
_LIBRARIES = frozenset({
    "amortvi", "numpy", "opt_einsum", "pyro", "torch", "typing_extensions",
})
# Tools that run between the calls of a program, such as those that show warnings and progress.
_TOOLS = frozenset({
    "IPython", "_pytest", "coverage", "debugpy", "hypothesis", "ipykernel", "pluggy", "pytest", "tqdm",
})
# Modules of the standard library whose functions return the same for the same arguments, or only write.
_PURE = frozenset({
    "__future__", "_abc", "_collections", "_collections_abc", "_functools", "_operator", "_sre", "_struct", "_weakref",
    "_weakrefset", "abc", "argparse", "array", "bisect", "builtins", "cmath", "collections", "contextlib", "copy",
    "copyreg", "dataclasses", "enum", "fractions", "functools", "heapq", "inspect", "itertools", "json", "linecache",
    "logging", "math", "numbers", "operator", "pprint", "re", "re._compiler", "re._parser", "reprlib", "sre_compile",
    "statistics", "string", "struct", "textwrap", "threading", "traceback", "types", "typing", "warnings", "weakref",
})
# Functions of torch and Pyro whose results, or effects, depend on more than their arguments.
_STATEFUL = frozenset({
    "clear_param_store", "fork_rng", "get_num_threads", "get_param_store", "get_rng_state", "initial_seed", "manual_seed",
    "pyro.settings.get", "seed", "set_num_threads", "set_rng_seed", "set_rng_state",
})
_IMPURE_BUILTINS = frozenset({
    "__import__", "compile", "eval", "exec", "globals", "input", "locals", "open",
})
READS_BY_NAME = frozenset({
    "attrgetter", "delattr", "getattr", "hasattr", "setattr", "vars",
})
"""Builtin functions that read attributes by names that the code may compute."""

REFLECTIVE = frozenset({
    "copy", "dataclasses", "inspect", "pprint", "reprlib",
})
"""Modules of the standard library that read attributes by name."""

WRAPPERS = frozenset({
    "contextlib", "functools", "torch._compile", "torch._dynamo.eval_frame", "torch.utils._contextlib",
})
"""Modules whose frames lie between a decorated function and its caller."""
# fmt: on


def is_library(module: object) -> bool:
    """Return whether a module of this name belongs to torch, Pyro or the standard library rather than to the user.

    Example:
        >>> is_library("torch.nn"), is_library("my_models")
        (True, False)
    """
    top = module.partition(".")[0] if isinstance(module, str) else ""
    return top in _LIBRARIES or top in _TOOLS or top in sys.stdlib_module_names


def is_impure(module: str, name: str) -> bool:
    """Return whether a function of a library may return something else for the same arguments, or have lasting effects.

    Example:
        >>> is_impure("time", "time"), is_impure("math", "sqrt"), is_impure("torch.random", "manual_seed")
        (True, False, True)
    """
    top = module.partition(".")[0]
    if module == "builtins":
        return name in _IMPURE_BUILTINS
    if top in ("torch", "pyro"):
        return not _STATEFUL.isdisjoint({name, f"{module}.{name}"})
    return module.startswith("numpy.random") or (top in sys.stdlib_module_names and module not in _PURE)
