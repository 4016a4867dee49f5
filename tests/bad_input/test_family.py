"""Families that are unknown, or cannot be built for the model."""

from typing import Any

import pytest
from torch import nn

from amortvi.errors import FamilyError, NotFittedError
from amortvi.families import Diagonal, LowRank
from tests.bad_input.helpers import data, estimator, fit, refused

KNOWN = ("family must be one of", "diagonal", "flow", "full", "low_rank")


@pytest.mark.parametrize(
    ("family", "facts"),
    [
        ("gaussian", (*KNOWN, "'gaussian'")),
        (None, (*KNOWN, "None")),
        (["full"], (*KNOWN, "['full']")),
        (nn.Linear, ("Linear", "without arguments", "TypeError")),
        (lambda dim, features: None, ("without arguments", "TypeError")),
        (lambda: 1 / 0, ("without arguments", "ZeroDivisionError")),
        (nn.Identity, ("must return a families.Family", "Identity")),
    ],
    ids=["name", "none", "list", "module", "arguments", "raises", "another result"],
)
def test_unknown_families(family: Any, facts: tuple[str, ...]) -> None:
    with refused(FamilyError, *facts):
        estimator(family=family)


@pytest.mark.parametrize(
    ("family", "facts"),
    [
        (LowRank(5), ("rank must be at most", "2", "rank=5", "'full'")),
        (Diagonal(head=False), ("head=False", "must return 4 features", "8")),
    ],
    ids=["rank", "no head"],
)
def test_families_that_cannot_be_built(family: Any, facts: tuple[str, ...]) -> None:
    vi = estimator(family=family)
    with refused(FamilyError, *facts):
        fit(vi, data())
    with refused(NotFittedError, "fit or setup"):
        vi.posterior(data())
