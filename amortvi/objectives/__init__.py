"""Objectives: bounds of the log evidence of each observation, as reductions of its log weights.

A new objective is one file here, one import below, and one row in ``tests/objectives/test_objectives.py``; to be selected by
name, it also needs an entry in `NAMED`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from amortvi.errors import OptionError
from amortvi.model.structure import ModelStructure
from amortvi.objectives.base import Objective
from amortvi.objectives.elbo import ELBO
from amortvi.objectives.estimate import Estimate
from amortvi.objectives.iwae import IWAE
from amortvi.objectives.renyi import Renyi
from amortvi.objectives.schedules import CyclicalSchedule, LinearSchedule, WeightSchedule

__all__ = [
    "ELBO",
    "IWAE",
    "NAMED",
    "CyclicalSchedule",
    "Estimate",
    "LinearSchedule",
    "Objective",
    "ObjectiveChoice",
    "Renyi",
    "WeightSchedule",
    "default_objective",
    "make_objective",
]

ObjectiveChoice: TypeAlias = str | Objective
"""A name in `NAMED`, or an objective; for a fit, also ``"auto"``, see `default_objective`."""

NAMED: dict[str, Callable[[], Objective]] = {"elbo": ELBO, "iwae": IWAE}
"""The objectives that can be selected by name; ``"iwae"`` uses 5 draws."""

_PARTICLES = 20
"""The draws for each observation with global latents: standard deviations are then within 5 % in the examples."""


def make_objective(choice: ObjectiveChoice) -> Objective:
    """Return the chosen objective.

    Args:
        choice: a name in `NAMED`, or an objective.

    Raises:
        OptionError: ``choice`` is neither.

    Example:
        >>> make_objective("elbo")
        ELBO()
    """
    if isinstance(choice, Objective):
        return choice
    if not isinstance(choice, str) or choice not in NAMED:
        raise OptionError(f"objective must be one of {sorted(NAMED)} or an objectives.Objective; got {choice!r}.")
    return NAMED[choice]()


def default_objective(structure: ModelStructure) -> Objective:
    """Return the objective of a fit without one: the ELBO or, for a model with global latents, `IWAE`.

    Under the ELBO, the posterior of a global latent is as narrow as if the latents of all observations were known, because
    ``q(z | x)`` does not depend on it. The importance-weighted bound corrects ``q(z | x)`` for each value of the global latents.
    """
    return IWAE(_PARTICLES) if structure.globals else ELBO()
