"""Objectives: lower bounds of the log evidence of each observation, as reductions of its log weights.

A new objective is one file here, one import below, and one row in ``tests/objectives/test_objectives.py``; to be chosen by
name it also needs an entry in `NAMED`.
"""

from amortvi.objectives.base import Estimate, Objective
from amortvi.objectives.choice import NAMED, ObjectiveChoice, make_objective
from amortvi.objectives.elbo import ELBO
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
    "make_objective",
]
