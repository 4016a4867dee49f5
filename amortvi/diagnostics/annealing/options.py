"""The options of annealed importance sampling, and its temperatures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import torch

from amortvi._util.checks import positive_int
from amortvi.errors import OptionError

__all__ = ["AnnealingOptions", "StartChoice"]

StartChoice: TypeAlias = Literal["posterior", "prior"]

_STEEPNESS = 4.0
"""The sigmoid is evaluated between minus and plus this value, as by Wu et al. (2017)."""


@dataclass(frozen=True)
class AnnealingOptions:
    """The options of annealed importance sampling; see `amortvi.annealed_evidence`.

    Args:
        temperatures: ``T``, the number of steps from the start density to the joint density.
        chains: ``K``, the number of chains for each observation.
        start: the start density.
        leapfrog_steps: the number of leapfrog steps per move.
        progress: whether to show a progress bar.

    Raises:
        OptionError: an option is out of range.
    """

    temperatures: int
    chains: int
    start: StartChoice
    leapfrog_steps: int
    progress: bool

    def __post_init__(self) -> None:
        for name, smallest in (("temperatures", 1), ("chains", 2), ("leapfrog_steps", 1)):
            object.__setattr__(self, name, positive_int(name, getattr(self, name), at_least=smallest))
        choices: tuple[str, ...] = get_args(StartChoice)
        if self.start not in choices:
            raise OptionError(f"start must be one of {', '.join(map(repr, choices))}; got {self.start!r}.")

    def betas(self) -> list[float]:
        """Return ``T + 1`` inverse temperatures from 0 to 1, more closely spaced at both ends, where densities change most.

        Example:
            >>> options = AnnealingOptions(4, chains=2, start="prior", leapfrog_steps=1, progress=False)
            >>> [round(beta, 3) for beta in options.betas()]
            [0.0, 0.105, 0.5, 0.895, 1.0]
        """
        raw = torch.linspace(-_STEEPNESS, _STEEPNESS, self.temperatures + 1, dtype=torch.float64).sigmoid()
        betas: list[float] = ((raw - raw[0]) / (raw[-1] - raw[0])).tolist()
        return betas
