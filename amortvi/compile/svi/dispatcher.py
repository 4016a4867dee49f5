"""The choice for each step between a graph and Pyro's own step."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal

from pyro.util import warn_if_nan

from amortvi.compile.audit import Verify
from amortvi.compile.svi.arguments import Arguments
from amortvi.compile.svi.compiled_step import OTHER_OPTIONS, CompiledSVIStep, StepDefinition
from amortvi.compile.svi.entry import Entry
from amortvi.compile.svi.state import current_settings, modules_of, training_modes
from amortvi.compile.svi.torch_optim import can_be_recorded, has_state_for
from amortvi.compile.svi.watch import Observation, observe
from amortvi.compile.verified_graph import MismatchError
from amortvi.errors import AmortviWarning, CaptureError, VerificationWarning

__all__ = ["MAX_RECORDINGS", "DispatchOptions", "StepDispatcher"]

MAX_RECORDINGS = 16
"""The limit on recordings. Without it, arguments with a new shape in every step would lead to a recording in every step."""

_MAX_SIGNATURES = 1000
"""The limit on signatures that are known at a time. Without it, a new signature in every step would fill the memory."""

_MAX_OPTION_CHANGES = 2
"""How often the options of an optimizer may change before it is left out of the graph. A schedule that changes more than the
learning rate would otherwise lead to a new graph in every step."""


@dataclass(frozen=True)
class DispatchOptions:
    """When steps are recorded and compiled.

    Args:
        choice: record after some steps (``"auto"``), or raise an error if that is impossible (``True``).
        record_after: the eager steps with one signature before it is recorded.
        compile_after: the recorded steps with one signature before it is compiled as well.
        verify: whether a graph that differs from Pyro's step leads to a warning or to an error.
        warns: whether to issue Pyro's warning if a loss is NaN.
    """

    choice: Literal[True, "auto"]
    record_after: int
    compile_after: int
    verify: Verify
    warns: bool


class StepDispatcher:
    """Runs each step as a graph if this is possible and saves time, and eagerly otherwise.

    Args:
        eager: Pyro's own step.
        define: returns what a step currently computes.
        options: when steps are recorded and compiled.
    """

    def __init__(
        self, eager: Callable[..., Any], define: Callable[[], StepDefinition], options: DispatchOptions
    ) -> None:
        self.recordings = 0
        self._eager = eager
        self._define = define
        self._options = options
        self._entries: dict[Hashable, Entry] = {}
        self._definition: StepDefinition | None = None
        self._warned: set[str] = set()
        self._steps: Counter[str] = Counter()
        self._refused: list[str] = []
        self._invalidated: Counter[str] = Counter()
        self._option_changes = 0
        self._attempts = 0
        self._is_wrong = False

    def step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one step and return the loss.

        Raises:
            CaptureError: the choice is ``True`` and the step cannot be recorded; nothing has changed.
            VerificationError: a recorded step differs from Pyro's, which is to be an error.
        """

        def eager() -> Any:
            return self._eager(*args, **kwargs)

        self._steps["all"] += 1
        if self._is_wrong:
            return eager()
        try:
            arguments = Arguments.of(args, kwargs)
            settings = current_settings()
            entry = self._entry(arguments, settings)
            step = self._graph(entry, arguments, settings)
        except CaptureError as error:
            self._refuse(error)
            return eager()
        if step is None or step.has_gradients_of_others():
            return self._run_eagerly(entry, arguments, eager)
        self._steps["recorded"] += 1
        try:
            loss = step.run(arguments, eager)
        except MismatchError as mismatch:
            return self._report(mismatch, entry, step)
        if self._options.warns:
            for each in loss if isinstance(loss, tuple) else (loss,):
                warn_if_nan(each, "loss")
        return loss

    def explain(self) -> str:
        """Describe what is recorded, what was refused, and why."""
        graphs = [graph for entry in self._entries.values() for graph in entry.graphs.values()]
        compiled = sum(graph.is_compiled for graph in graphs)
        lines = [
            f"{self._steps['recorded']} of {self._steps['all']} steps ran as recorded graphs, all others as Pyro's own steps.",
            f"{self.recordings} graphs were recorded, for {len(self._entries)} signatures of arguments; {len(graphs)} are in "
            f"use, {compiled} of them compiled.",
            *(f"Refused: {reason}" for reason in self._refused),
            *(f"Recorded again {count} times: {reason}." for reason, count in self._invalidated.items()),
        ]
        waiting = [entry for entry in self._entries.values() if not entry.graphs and not entry.stays_eager]
        if waiting and not self._refused:
            lines.append(f"{len(waiting)} signatures are recorded after {self._options.record_after} steps each.")
        return "\n".join(lines)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has other tensors, so it has to record its own graphs.
        return {**vars(self), "_entries": {}, "_definition": None}

    def _entry(self, arguments: Arguments, settings: Hashable) -> Entry:
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

    def _entry_for(self, key: Hashable) -> Entry:
        entry = self._entries.get(key)
        if entry is None:
            if len(self._entries) >= _MAX_SIGNATURES:
                self._entries = {k: kept for k, kept in self._entries.items() if kept.graphs or kept.splits_by_floats}
            entry = self._entries[key] = Entry()
        return entry

    def _graph(self, entry: Entry, arguments: Arguments, settings: Hashable) -> CompiledSVIStep | None:
        """Return the recorded step, recording it if it is due, or ``None`` to run eagerly."""
        if entry.observation is None:
            return None
        modes = training_modes(entry.modules)
        graph = entry.graphs.get(modes)
        if graph is not None:
            reason = graph.invalidated_by()
            if reason is None:
                self._compile(graph, arguments)
                return graph
            self._invalidated[reason] += 1
            self._option_changes += reason == OTHER_OPTIONS
            entry.restart()
            return None
        assert self._definition is not None
        has_state = has_state_for(self._definition.optim, entry.observation.parameters.values())
        if modes != entry.observed_modes or not has_state or self._is_exhausted():
            return None
        self._attempts += 1
        try:
            entry.graphs[modes] = self._record(self._definition, entry, entry.observation, arguments)
        except CaptureError:
            if entry.has_constant_floats or not arguments.floats:
                self._give_up(entry)
                raise
            return self._record_with_constant_floats(entry, arguments, settings)
        return entry.graphs[modes]

    def _record(
        self, definition: StepDefinition, entry: Entry, observation: Observation, arguments: Arguments
    ) -> CompiledSVIStep:
        supports_optimizer = can_be_recorded(definition.optim, list(observation.parameters.values()))
        graph = CompiledSVIStep(
            definition,
            arguments,
            observation,
            entry.modules,
            records_optimizer=supports_optimizer and self._option_changes < _MAX_OPTION_CHANGES,
            floats_vary=not entry.has_constant_floats,
        )
        self.recordings += 1
        return graph

    def _record_with_constant_floats(
        self, entry: Entry, arguments: Arguments, settings: Hashable
    ) -> CompiledSVIStep | None:
        entry.splits_by_floats = True
        part = self._entry(arguments, settings)
        part.continue_from(entry)
        try:
            return self._graph(part, arguments, settings)
        except CaptureError:
            # The floats were not the reason.
            entry.splits_by_floats = False
            self._give_up(entry)
            raise

    def _compile(self, graph: CompiledSVIStep, arguments: Arguments) -> None:
        try:
            graph.compile_when_due(arguments, self._options.compile_after)
        except CaptureError as error:
            self._refuse(error, "steps run as graphs that are not compiled", callers=6)

    def _give_up(self, entry: Entry) -> None:
        if self._options.choice == "auto":
            entry.observation, entry.stays_eager = None, True
        else:
            # The next step fails with the same error, and does not count as another attempt.
            self._attempts -= 1

    def _refuse(
        self, error: CaptureError, consequence: str = "steps run without compiling", *, callers: int = 4
    ) -> None:
        if self._options.choice is True:
            raise error
        if str(error) not in self._refused:
            self._refused.append(str(error))
        self._warn_once(consequence, f"{consequence}: {error}", AmortviWarning, callers=callers)

    def _report(self, mismatch: MismatchError, entry: Entry, step: CompiledSVIStep) -> Any:
        """Return the loss of Pyro's step, which an audit has taken, and continue without the graph that differs from it."""
        loss = step.as_numbers(mismatch.losses)
        if isinstance(mismatch.error, CaptureError):
            entry.graphs.clear()
            if entry.has_constant_floats or not step.has_floats:
                self._give_up(entry)
                self._refuse(mismatch.error)
            else:
                entry.splits_by_floats = True
            return loss
        self._is_wrong = True
        message = (
            f"the losses and parameters of the last {mismatch.unverified} recorded steps may be wrong, up to step "
            f"{self._steps['all']} of this SVI, and all further steps run without compiling: {mismatch.error}"
        )
        self._refused.append(message)
        if self._options.verify == "error":
            raise mismatch.error
        self._warn_once("wrong", message, VerificationWarning, callers=4)
        return loss

    def _run_eagerly(self, entry: Entry, arguments: Arguments, eager: Callable[[], Any]) -> Any:
        entry.steps += 1
        is_due = entry.steps >= self._options.record_after and not entry.stays_eager
        if not is_due or self._is_exhausted():
            return eager()
        loss, observation = observe(eager)
        assert self._definition is not None
        owned = modules_of(self._definition.model, self._definition.guide, *arguments.objects)
        entry.update(observation, [*owned, *observation.modules])
        return loss

    def _is_exhausted(self) -> bool:
        if self._attempts < MAX_RECORDINGS:
            return False
        most = "".join(f" (Most often, {reason}.)" for reason, _ in self._invalidated.most_common(1))
        self._warn_once(
            "limit",
            f"{MAX_RECORDINGS} different steps were recorded, and all others run eagerly: use arguments of few different "
            f"shapes, and pass numbers that change as tensors or float arguments, not as integers, attributes or globals.{most}",
            AmortviWarning,
            callers=5,
        )
        return True

    def _warn_once(self, kind: str, message: str, category: type[Warning], *, callers: int) -> None:
        """Issue a warning once, for the line that is ``callers`` calls further out."""
        if kind not in self._warned:
            self._warned.add(kind)
            warnings.warn(message, category, stacklevel=callers + 1)
