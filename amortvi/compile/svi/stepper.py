"""The choice, step by step, between Pyro's own step and a compiled one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable
from typing import Any, Literal

from pyro.util import warn_if_nan
from torch import Tensor, nn

from amortvi.compile.svi.arguments import Arguments
from amortvi.compile.svi.plan import OTHER_OPTIONS, Ingredients, Plan
from amortvi.compile.svi.surroundings import Seen, check_outside, modes, owners, watch
from amortvi.compile.svi.torch_optim import can_be_recorded, knows, trained_by
from amortvi.errors import AmortviWarning, CaptureError

__all__ = ["COMPILE_AFTER", "MOST_COMPILATIONS", "Stepper"]

COMPILE_AFTER = 2000
"""Eager steps of one signature after which it is compiled. How many are to come is not known. Compiling takes about as long
as two to three thousand eager steps, whatever the model, since both grow with the number of its operations; so the time that
is wasted in the worst case, by compiling at the last step, is about what the eager steps have taken already."""

MOST_COMPILATIONS = 16
"""A model whose arguments have another shape at each step would else do nothing but compile."""

_MOST_SIGNATURES = 1000
"""Signatures that are counted at a time: if each step has another, what is known of them must not fill the memory."""

_MOST_OPTION_CHANGES = 2
"""How often options of an optimizer may change and the graph be made anew with it; a schedule that changes more than the learning
rate would else do so at each of its steps."""


class Stepper:
    """Takes steps, compiled where that can be and pays.

    Args:
        eager: Pyro's own step.
        made_of: returns what a step is made of at present.
        choice: compile each signature from its second step (``True``), or where it has come often (``"auto"``).
        warns: whether a loss that is NaN gets Pyro's warning.
    """

    def __init__(
        self,
        eager: Callable[..., Any],
        made_of: Callable[[], Ingredients],
        choice: Literal[True, "auto"],
        *,
        warns: bool,
    ) -> None:
        self.compilations = 0
        self._eager = eager
        self._made_of = made_of
        self._choice = choice
        self._warns = warns
        self._entries: dict[Hashable, _Entry] = {}
        self._current: Ingredients | None = None
        self._warned: set[str] = set()
        self._option_changes = 0
        self._attempts = 0
        self._broken_by = ""

    def step(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Take one step and return the loss.

        Raises:
            CaptureError: every step was to be compiled, and this one cannot be; nothing was changed.
        """
        try:
            arguments = Arguments.of(args, kwargs)
            outside = check_outside()
            entry = self._entry(arguments, outside)
            plan = self._plan(entry, arguments, outside)
        except CaptureError as error:
            if self._choice is True:
                raise
            self._warn(f"steps are taken without compiling: {error}", once="refused", callers=3)
            return self._eager(*args, **kwargs)
        if plan is not None:
            loss = plan.run(arguments)
            if self._warns:
                for each in loss if isinstance(loss, tuple) else (loss,):
                    warn_if_nan(each, "loss")
            return loss
        return self._take_eager(entry, arguments, args, kwargs)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has other tensors, and compiles for itself.
        return {**vars(self), "_entries": {}, "_current": None}

    def _entry(self, arguments: Arguments, outside: Hashable) -> _Entry:
        current = self._made_of()
        if current != self._current:
            self._entries.clear()
            self._current = current
        entry = self._known((arguments.signature, outside))
        if entry.splits:
            # The model needs the floats themselves, so each of their values has a graph of its own.
            entry = self._known((arguments.signature, outside, arguments.numbers))
            entry.is_of_numbers = True
        return entry

    def _known(self, signature: Hashable) -> _Entry:
        entry = self._entries.get(signature)
        if entry is None:
            if len(self._entries) >= _MOST_SIGNATURES:
                self._entries = {key: kept for key, kept in self._entries.items() if kept.plans or kept.splits}
            entry = self._entries[signature] = _Entry()
        return entry

    def _plan(self, entry: _Entry, arguments: Arguments, outside: Hashable) -> Plan | None:
        """Return what to run, compiled if it is time to; ``None`` to step eagerly."""
        if entry.seen is None:
            return None
        mode = modes(entry.modules)
        plan = entry.plans.get(mode)
        if plan is not None:
            broken_by = plan.broken_by()
            if broken_by is None:
                return plan
            self._broken_by = f" (Lately {broken_by}.)"
            self._option_changes += broken_by == OTHER_OPTIONS
            entry.begin_again()
            return None
        if mode != entry.seen_in or not knows(self._ingredients.optim, entry.seen.values()) or self._is_enough():
            return None
        self._attempts += 1
        try:
            plan = entry.plans[mode] = self._compiled(entry, arguments, numbers_vary=not entry.is_of_numbers)
        except CaptureError:
            if entry.is_of_numbers or not arguments.numbers:
                self._settle(entry)
                raise
            return self._split(entry, arguments, outside)
        return plan

    def _split(self, entry: _Entry, arguments: Arguments, outside: Hashable) -> Plan | None:
        """Compile for the floats of today alone."""
        entry.splits = True
        part = self._entry(arguments, outside)
        part.continue_from(entry)
        try:
            return self._plan(part, arguments, outside)
        except CaptureError:
            # It was not for the floats.
            entry.splits = False
            self._settle(entry)
            raise

    def _settle(self, entry: _Entry) -> None:
        if self._choice == "auto":
            entry.seen, entry.is_settled = None, True
        else:
            # Where every step was to be compiled, every step says why it is not.
            self._attempts -= 1

    @property
    def _ingredients(self) -> Ingredients:
        assert self._current is not None
        return self._current

    def _compiled(self, entry: _Entry, arguments: Arguments, *, numbers_vary: bool) -> Plan:
        assert entry.seen is not None
        made_of = self._ingredients
        whole = self._option_changes < _MOST_OPTION_CHANGES and can_be_recorded(
            made_of.optim, list(entry.seen.values())
        )
        plan = Plan(
            made_of,
            arguments,
            Seen(entry.seen, entry.modules),
            trained_by(made_of.optim),
            whole=whole,
            numbers_vary=numbers_vary,
        )
        self.compilations += 1
        return plan

    def _take_eager(self, entry: _Entry, arguments: Arguments, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        entry.steps += 1
        due = entry.steps >= (1 if self._choice is True else COMPILE_AFTER) and not entry.is_settled
        if not due or self._is_enough():
            return self._eager(*args, **kwargs)
        loss, seen = watch(lambda: self._eager(*args, **kwargs))
        made_of = self._ingredients
        entry.note(seen, owners(made_of.model, made_of.guide, *arguments.modules))
        return loss

    def _is_enough(self) -> bool:
        if self._attempts < MOST_COMPILATIONS:
            return False
        self._warn(
            f"{MOST_COMPILATIONS} different steps were compiled, all others are taken without: give the arguments the same few "
            f"shapes, and numbers that change as tensors or floats among them, not as integers, attributes or globals."
            f"{self._broken_by}",
            once="cap",
            callers=5,
        )
        return True

    def _warn(self, message: str, *, once: str, callers: int) -> None:
        """Warn once, at the line of the user's that is so many calls away."""
        if once not in self._warned:
            self._warned.add(once)
            warnings.warn(message, AmortviWarning, stacklevel=callers + 1)


class _Entry:
    """What is known of the steps of one signature."""

    def __init__(self) -> None:
        self.steps = 0
        self.modules: list[nn.Module] = []
        self.seen: dict[str, Tensor] | None = None
        self.seen_in: Hashable = None
        self.plans: dict[Hashable, Plan] = {}
        self.splits = False
        self.is_of_numbers = False
        self.is_settled = False

    def note(self, seen: Seen, owned: list[nn.Module]) -> None:
        """Remember what an eager step has used."""
        modules = list(dict.fromkeys([*self.modules, *owned, *seen.modules]))
        if len(modules) != len(self.modules):
            self.plans.clear()
            self.modules = modules
        self.seen, self.seen_in = seen.parameters, modes(self.modules)

    def begin_again(self) -> None:
        """Forget what no longer holds."""
        self.steps, self.seen = 0, None
        self.plans.clear()

    def continue_from(self, other: _Entry) -> None:
        """Take over what another entry has seen."""
        self.steps, self.modules, self.seen, self.seen_in = other.steps, other.modules, other.seen, other.seen_in
