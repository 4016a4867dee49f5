"""What one of Pyro's steps uses: parameters, modules, and the Python code of the user that runs in it."""

from __future__ import annotations

import gc
import linecache
import re
import sys
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FrameType, FunctionType, ModuleType
from typing import Any, TypeVar

from pyro import poutine
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from amortvi.compile.capture_errors import quote_line
from amortvi.compile.svi.watch.libraries import READS_BY_NAME, REFLECTIVE, WRAPPERS, is_impure, is_library

__all__ = ["Observation", "observe", "unconstrained_parameters"]

Result = TypeVar("Result")


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
        return {name for code in self.codes for name in (code.co_name, *code.co_names)} | self.strings

    @property
    def strings(self) -> set[str]:
        """The literal strings in the executed code that may be names of attributes."""
        return {name for code in self.codes for name in _strings(code)}

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
                if pattern.search(linecache.getline(code.co_filename, number)):
                    return quote_line(code.co_filename, number)
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
                self._note_library(frame, module)
                return
            self.codes.setdefault(frame.f_code, frame.f_globals)
            for value in frame.f_locals.values():
                kind = type(value)
                if kind.__weakrefoffset__ and not issubclass(kind, Tensor | type | FunctionType):
                    self.receivers.append(weakref.ref(value))
        elif event == "c_call" and _is_users(frame):
            self._note_builtin(frame, argument)

    def _note_library(self, frame: FrameType, module: str) -> None:
        caller = frame.f_back
        while caller is not None and caller.f_globals.get("__name__") in WRAPPERS:
            caller = caller.f_back
        if _is_users(caller):
            self.reads_by_name = self.reads_by_name or module in REFLECTIVE
            if is_impure(module, frame.f_code.co_name):
                self._note_impure(f"{module}.{frame.f_code.co_name}", caller)

    def _note_builtin(self, frame: FrameType, function: Any) -> None:
        owner, name = getattr(function, "__self__", None), function.__name__
        if owner is None or isinstance(owner, ModuleType):
            module = getattr(function, "__module__", None) or "builtins"
            self.reads_by_name = self.reads_by_name or (module == "builtins" and name in READS_BY_NAME)
            described = f"{module}.{name}"
        else:
            cls = owner if isinstance(owner, type) else type(owner)
            module, described = cls.__module__, f"{cls.__module__}.{cls.__name__}.{name}"
        if is_impure(module, name):
            self._note_impure(described, frame)

    def _note_impure(self, name: str, frame: FrameType | None) -> None:
        if self.impure is None and frame is not None:
            self.impure = name, quote_line(frame.f_code.co_filename, frame.f_lineno)


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


def _is_users(frame: FrameType | None) -> bool:
    return frame is not None and not is_library(frame.f_globals.get("__name__", ""))


def _strings(code: CodeType) -> Iterator[str]:
    for constant in code.co_consts:
        if isinstance(constant, str) and constant.isidentifier():
            yield constant
