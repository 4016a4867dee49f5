"""What can be chosen of an annealed run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from amortvi._util.checks import positive_int
from amortvi.errors import OptionError

__all__ = ["Annealing", "StartChoice"]

StartChoice: TypeAlias = Literal["posterior", "prior"]


@dataclass(frozen=True)
class Annealing:
    """The options of an annealed run.

    Args:
        temperatures: ``T``, steps from the start to the joint density.
        chains: ``K``, runs of each observation.
        leapfrog_steps: how many steps a move takes.
        start: what the chains start from.
        progress: whether a bar is shown.

    Raises:
        OptionError: one of them is out of range.
    """

    temperatures: int
    chains: int
    leapfrog_steps: int
    start: StartChoice
    progress: bool

    def __post_init__(self) -> None:
        for name in ("temperatures", "chains", "leapfrog_steps"):
            object.__setattr__(self, name, positive_int(name, getattr(self, name)))
        if self.chains < 2:
            raise OptionError(
                "chains must be at least 2, since a standard error comes from what they differ by; got 1."
            )
        choices: tuple[Any, ...] = get_args(StartChoice)
        if self.start not in choices:
            raise OptionError(f"start must be one of {', '.join(map(repr, choices))}; got {self.start!r}.")
