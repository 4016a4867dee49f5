"""What is known about the steps with one signature of arguments."""

from __future__ import annotations

from collections.abc import Hashable

from torch import nn

from amortvi.compile.svi.compiled_step import CompiledSVIStep
from amortvi.compile.svi.state import training_modes
from amortvi.compile.svi.watch import Observation

__all__ = ["Entry"]


class Entry:
    """What is known about the steps with one signature."""

    def __init__(self) -> None:
        self.steps = 0  # eager ones
        self.observation: Observation | None = None  # of the last observed step
        self.modules: list[nn.Module] = []  # of all observed steps
        self.observed_modes: Hashable = None  # of the modules in the last observed step
        self.graphs: dict[Hashable, CompiledSVIStep] = {}  # by the modes of the modules
        self.splits_by_floats = False  # whether each combination of float arguments has an entry of its own
        self.has_constant_floats = False  # whether this is such an entry
        self.stays_eager = False  # because recording has failed

    def update(self, observation: Observation, modules: list[nn.Module]) -> None:
        """Add what was observed in an eager step."""
        modules = list(dict.fromkeys([*self.modules, *modules]))
        if len(modules) != len(self.modules):
            self.graphs.clear()
            self.modules = modules
        self.observation, self.observed_modes = observation, training_modes(self.modules)

    def restart(self) -> None:
        """Discard what is no longer valid."""
        self.steps, self.observation = 0, None
        self.graphs.clear()

    def continue_from(self, other: Entry) -> None:
        """Copy what was observed from another entry."""
        self.steps, self.observation = other.steps, other.observation
        self.modules, self.observed_modes = other.modules, other.observed_modes
