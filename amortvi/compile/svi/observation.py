"""What one of Pyro's steps uses: parameters, modules, and the Python code of the user that runs in it."""

from __future__ import annotations

import gc
import linecache
import re
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType
from typing import Any, TypeVar

from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

__all__ = ["Observation", "is_library", "observe", "unconstrained_parameters"]

Result = TypeVar("Result")

_LIBRARIES = frozenset({"amortvi", "numpy", "opt_einsum", "pyro", "torch", "typing_extensions"})
# Tools that run between the calls of a program, such as those that show warnings and progress.
_TOOLS = frozenset({"IPython", "_pytest", "coverage", "debugpy", "hypothesis", "ipykernel", "pluggy", "pytest", "tqdm"})
# Modules of the standard library whose functions return the same for the same arguments, or only write.
_PURE = frozenset(
    """__future__ _abc _collections _collections_abc _functools _operator _sre _struct _weakref _weakrefset abc argparse array
    bisect builtins cmath collections contextlib copy copyreg dataclasses decimal enum fractions functools heapq inspect
    itertools json linecache logging math numbers operator pathlib posixpath pprint re re._compiler re._parser reprlib
    sre_compile statistics string struct textwrap threading traceback types typing warnings weakref""".split()
)
_IMPURE = frozenset({"__import__", "compile", "eval", "exec", "globals", "input", "locals", "open"})
_DYNAMIC = frozenset({"attrgetter", "delattr", "getattr", "hasattr", "setattr", "vars"})


@dataclass
class Observation:
    """What a step has used.

    Args:
        parameters: Pyro's unconstrained parameters, by name.
        modules: every module that was called.
        codes: the code of the user that was executed, with the globals that it refers to.
        receivers: the objects that this code was called with.
        impure: the first function called by the user's code that may return something else next time, and the user's line.
        reads_by_name: whether the user's code reads attributes whose names it computes.
    """

    parameters: dict[str, Tensor] = field(default_factory=dict)
    modules: list[nn.Module] = field(default_factory=list)
    codes: dict[CodeType, dict[str, Any]] = field(default_factory=dict)
    receivers: list[weakref.ref[Any]] = field(default_factory=list)
    impure: tuple[str, str] | None = None
    reads_by_name: bool = False
    _imports: int = 0

    @property
    def names(self) -> set[str]:
        """The names of all globals, attributes and literal strings in the executed code."""
        return {name for code in self.codes for name in (*code.co_names, *_strings(code))}

    def functions(self) -> list[FunctionType]:
        """Return all functions with the executed code, wherever they are."""
        found = gc.get_referrers(*self.codes) if self.codes else []
        return [each for each in found if isinstance(each, FunctionType) and each.__code__ in self.codes]

    def line_of(self, name: str) -> str | None:
        """Return a description of the first executed function's line that contains a name."""
        pattern = re.compile(rf"\b{re.escape(name)}\b")
        for code in self.codes:
            last = max((line for _, _, line in code.co_lines() if line is not None), default=code.co_firstlineno)
            for number in range(code.co_firstlineno, last + 1):
                text = linecache.getline(code.co_filename, number)
                if pattern.search(text):
                    return f"{code.co_filename.rpartition('/')[2]}, line {number} (`{text.strip()}`)"
        return None

    def note(self, frame: FrameType, event: str, argument: Any) -> None:
        """Note one event of `sys.setprofile`."""
        if frame.f_code.co_name == "_find_and_load" and frame.f_globals.get("__name__") == "importlib._bootstrap":
            # Modules that are imported in this step are not part of its computation.
            self._imports += {"call": 1, "return": -1}.get(event, 0)
        elif self._imports:
            return
        elif event == "call":
            module = frame.f_globals.get("__name__", "")
            if is_library(module):
                caller = frame.f_back
                if module.partition(".")[0] in sys.stdlib_module_names and _is_users(caller) and module not in _PURE:
                    self._note_impure(f"{module}.{frame.f_code.co_name}", caller)
                return
            self.codes.setdefault(frame.f_code, frame.f_globals)
            for value in frame.f_locals.values():
                if type(value).__weakrefoffset__ and not isinstance(value, Tensor | type | FunctionType):
                    self.receivers.append(weakref.ref(value))
        elif event == "c_call" and _is_users(frame):
            self._note_builtin(frame, argument)

    def _note_builtin(self, frame: FrameType, function: Any) -> None:
        owner = getattr(function, "__self__", None)
        if owner is None or isinstance(owner, type(sys)):
            module, name = getattr(function, "__module__", None) or "builtins", function.__name__
        else:
            cls = owner if isinstance(owner, type) else type(owner)
            module, name = cls.__module__, f"{cls.__name__}.{function.__name__}"
        if module == "builtins" and name in _DYNAMIC:
            self.reads_by_name = True
        top = module.partition(".")[0]
        if module.startswith("numpy.random") or (module == "builtins" and name in _IMPURE):
            self._note_impure(f"{module}.{name}", frame)
        elif top in sys.stdlib_module_names and module not in _PURE:
            self._note_impure(f"{module}.{name}", frame)

    def _note_impure(self, name: str, frame: FrameType | None) -> None:
        if self.impure is None and frame is not None:
            file = frame.f_code.co_filename
            text = linecache.getline(file, frame.f_lineno).strip()
            self.impure = name, f"{file.rpartition('/')[2]}, line {frame.f_lineno} (`{text}`)"


def observe(step: Callable[[], Result]) -> tuple[Result, Observation]:
    """Run one of Pyro's steps, and return its result and what it used."""
    observation = Observation()
    called: dict[nn.Module, None] = {}

    def note(module: nn.Module, _: Any) -> None:
        called.setdefault(module)

    handle = register_module_forward_pre_hook(note)
    previous = sys.getprofile()
    try:
        with poutine.trace(param_only=True) as captured:
            sys.setprofile(observation.note)
            try:
                result = step()
            finally:
                sys.setprofile(previous)
    finally:
        handle.remove()
    observation.parameters, observation.modules = unconstrained_parameters(captured), list(called)
    return result, observation


def unconstrained_parameters(captured: Any) -> dict[str, Tensor]:
    """Return the parameters in a trace as Pyro's optimizers see them, by name."""
    return {name: site["value"].unconstrained() for name, site in captured.trace.nodes.items()}


def is_library(module: object) -> bool:
    """Return whether a module of this name belongs to torch, Pyro or the standard library rather than to the user."""
    top = module.partition(".")[0] if isinstance(module, str) else ""
    return top in _LIBRARIES or top in _TOOLS or top in sys.stdlib_module_names


def _is_users(frame: FrameType | None) -> bool:
    return frame is not None and not is_library(frame.f_globals.get("__name__", ""))


def _strings(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, str) and constant.isidentifier():
            yield constant
