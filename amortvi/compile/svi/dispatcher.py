"""The choice for each step between a compiled graph and Pyro's own step."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import Any, Literal

from pyro.util import warn_if_nan
from torch import Tensor, nn

from amortvi.compile.svi.arguments import Arguments
from amortvi.compile.svi.compiled_step import OTHER_OPTIONS, CompiledSVIStep, StepDefinition
from amortvi.compile.svi.state import UsedState, current_settings, modules_of, observe, training_modes
from amortvi.compile.svi.torch_optim import can_be_recorded, has_state_for
from amortvi.errors import AmortviWarning, CaptureError

__all__ = ["COMPILE_AFTER", "MAX_COMPILATIONS", "StepDispatcher"]

COMPILE_AFTER = 2000
"""Eager steps with one signature before it is compiled. The number of steps that will follow is unknown. Compiling takes about as
long as two to three thousand eager steps for any model, because both times grow with the number of operations. In the worst
case, in which the last step compiles, the time lost is therefore about the time that the eager steps have taken."""

MAX_COMPILATIONS = 16
"""The limit on compilations. Without it, arguments with a new shape in every step would lead to a compilation in every step."""

_MAX_SIGNATURES = 1000
"""The limit on signatures that are known at a time. Without it, a new signature in every step would fill the memory."""

_MAX_OPTION_CHANGES = 2
"""How often the options of an optimizer may change before it is left out of the graph. A schedule that changes more than the
learning rate would otherwise lead to a new graph in every step."""


class StepDispatcher:
    """Runs each step compiled if this is possible and saves time, and eagerly otherwise.

    Args:
        eager: Pyro's own step.
        define: returns what a step currently computes.
        choice: compile each signature from its second step (``True``), or after many steps (``"auto"``).
        warns: whether to issue Pyro's warning if a loss is NaN.
    """

    def __init__(
        self,
        eager: Callable[..., Any],
        define: Callable[[], StepDefinition],
        choice: Literal[True, "auto"],
        *,
        warns: bool,
    ) -> None:
        self.compilations = 0
        self._eager = eager
        self._define = define
        self._choice = choice
        self._warns = warns
        self._entries: dict[Hashable, _Entry] = {}
        self._definition: StepDefinition | None = None
        self._warned: set[str] = set()
        self._option_changes = 0
        self._attempts = 0
        self._last_invalidation = ""

    def step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one step and return the loss.

        Raises:
            CaptureError: the choice is ``True`` and the step cannot be compiled; nothing has changed.
        """
        try:
            arguments = Arguments.of(args, kwargs)
            settings = current_settings()
            entry = self._entry(arguments, settings)
            compiled = self._compiled_step(entry, arguments, settings)
        except CaptureError as error:
            if self._choice is True:
                raise
            self._warn_once("eager", f"steps run without compiling: {error}", callers=3)
            return self._eager(*args, **kwargs)
        if compiled is None:
            return self._run_eagerly(entry, arguments, args, kwargs)
        loss = compiled.run(arguments)
        if self._warns:
            for each in loss if isinstance(loss, tuple) else (loss,):
                warn_if_nan(each, "loss")
        return loss

    def __getstate__(self) -> dict[str, Any]:
        # A copy has other tensors, so it has to compile its own graphs.
        return {**vars(self), "_entries": {}, "_definition": None}

    def _entry(self, arguments: Arguments, settings: Hashable) -> _Entry:
        definition = self._define()
        if definition != self._definition:
            self._entries.clear()
            self._definition = definition
        entry = self._entry_for((arguments.signature, settings))
        if entry.splits_by_floats:
            # The model needs the values of the floats in Python, so each combination of values has its own graph.
            entry = self._entry_for((arguments.signature, settings, arguments.floats))
            entry.has_constant_floats = True
        return entry

    def _entry_for(self, key: Hashable) -> _Entry:
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= _MAX_SIGNATURES:
                self._entries = {k: kept for k, kept in self._entries.items() if kept.compiled or kept.splits_by_floats}
            entry = self._entries[key] = _Entry()
        return entry

    def _compiled_step(self, entry: _Entry, arguments: Arguments, settings: Hashable) -> CompiledSVIStep | None:
        """Return the compiled step, compiling it if it is due, or ``None`` to run eagerly."""
        if entry.parameters is None:
            return None
        modes = training_modes(entry.modules)
        compiled = entry.compiled.get(modes)
        if compiled is not None:
            reason = compiled.invalidated_by()
            if reason is None:
                return compiled
            self._last_invalidation = f" (Most recently, {reason}.)"
            self._option_changes += reason == OTHER_OPTIONS
            entry.restart()
            return None
        assert self._definition is not None
        has_state = has_state_for(self._definition.optim, entry.parameters.values())
        if modes != entry.observed_modes or not has_state or self._is_exhausted():
            return None
        self._attempts += 1
        try:
            entry.compiled[modes] = self._compile(self._definition, entry, entry.parameters, arguments)
        except CaptureError:
            if entry.has_constant_floats or not arguments.floats:
                self._give_up(entry)
                raise
            return self._compile_with_constant_floats(entry, arguments, settings)
        return entry.compiled[modes]

    def _compile(
        self, definition: StepDefinition, entry: _Entry, parameters: dict[str, Tensor], arguments: Arguments
    ) -> CompiledSVIStep:
        supports_optimizer = can_be_recorded(definition.optim, list(parameters.values()))
        compiled = CompiledSVIStep(
            definition,
            arguments,
            UsedState(parameters, entry.modules),
            records_optimizer=supports_optimizer and self._option_changes < _MAX_OPTION_CHANGES,
            floats_vary=not entry.has_constant_floats,
        )
        self.compilations += 1
        return compiled

    def _compile_with_constant_floats(
        self, entry: _Entry, arguments: Arguments, settings: Hashable
    ) -> CompiledSVIStep | None:
        entry.splits_by_floats = True
        part = self._entry(arguments, settings)
        part.continue_from(entry)
        try:
            return self._compiled_step(part, arguments, settings)
        except CaptureError:
            # The floats were not the reason.
            entry.splits_by_floats = False
            self._give_up(entry)
            raise

    def _give_up(self, entry: _Entry) -> None:
        if self._choice == "auto":
            entry.parameters, entry.stays_eager = None, True
        else:
            # The next step fails with the same error, and does not count as another attempt.
            self._attempts -= 1

    def _run_eagerly(self, entry: _Entry, arguments: Arguments, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        entry.steps += 1
        is_due = entry.steps >= (1 if self._choice is True else COMPILE_AFTER) and not entry.stays_eager
        if not is_due or self._is_exhausted():
            return self._eager(*args, **kwargs)
        loss, used = observe(lambda: self._eager(*args, **kwargs))
        assert self._definition is not None
        owned = modules_of(self._definition.model, self._definition.guide, *arguments.modules)
        entry.update(used.parameters, [*owned, *used.modules])
        return loss

    def _is_exhausted(self) -> bool:
        if self._attempts < MAX_COMPILATIONS:
            return False
        self._warn_once(
            "limit",
            f"{MAX_COMPILATIONS} different steps were compiled, and all others run eagerly: use arguments of few different "
            f"shapes, and pass numbers that change as tensors or float arguments, not as integers, attributes or globals."
            f"{self._last_invalidation}",
            callers=5,
        )
        return True

    def _warn_once(self, kind: str, message: str, *, callers: int) -> None:
        """Issue a warning once, for the line that is ``callers`` calls further out."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, AmortviWarning, stacklevel=callers + 1)


class _Entry:
    """What is known about the steps with one signature."""

    def __init__(self) -> None:
        self.steps = 0  # eager ones
        self.parameters: dict[str, Tensor] | None = None  # of the last observed step
        self.modules: list[nn.Module] = []  # of all observed steps
        self.observed_modes: Hashable = None  # of the modules in the last observed step
        self.compiled: dict[Hashable, CompiledSVIStep] = {}  # by the modes of the modules
        self.splits_by_floats = False  # whether each combination of float arguments has an entry of its own
        self.has_constant_floats = False  # whether this is such an entry
        self.stays_eager = False  # because compiling has failed

    def update(self, parameters: dict[str, Tensor], modules: list[nn.Module]) -> None:
        """Add what was observed in an eager step."""
        modules = list(dict.fromkeys([*self.modules, *modules]))
        if len(modules) != len(self.modules):
            self.compiled.clear()
            self.modules = modules
        self.parameters, self.observed_modes = parameters, training_modes(self.modules)

    def restart(self) -> None:
        """Discard what is no longer valid."""
        self.steps, self.parameters = 0, None
        self.compiled.clear()

    def continue_from(self, other: _Entry) -> None:
        """Copy what was observed from another entry."""
        self.steps, self.parameters = other.steps, other.parameters
        self.modules, self.observed_modes = other.modules, other.observed_modes
