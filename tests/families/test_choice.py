"""A family is chosen by name, as a class or as an object with options."""

import copy
from functools import partial
from typing import Any

import pytest
import torch

from amortvi import families
from amortvi.errors import OptionError
from tests.families.cases import FAMILIES


@pytest.mark.parametrize(
    ("choice", "kind", "label"),
    [
        ("full", families.FullCovariance, "full"),
        (families.FullCovariance, families.FullCovariance, "FullCovariance"),
        (families.LowRank(rank=3), families.LowRank, "LowRank(rank=3)"),
        (partial(families.LowRank, off_diagonal_rate=0.01), families.LowRank, "LowRank(off_diagonal_rate=0.01)"),
        (lambda: families.Diagonal(head=False), families.Diagonal, "Diagonal(head=False)"),
        (families.Flow(transforms=2, hidden=[8]), families.Flow, "Flow(transforms=2, hidden=(8,))"),
    ],
)
def test_choices(choice: families.FamilyChoice, kind: type[families.Family], label: str) -> None:
    assert type(families.resolve_family(choice)) is kind
    assert families.family_label(choice) == label


@pytest.mark.parametrize("choice", [*FAMILIES.values(), *families.NAMED], ids=repr)
def test_representations_reproduce_the_options(choice: families.FamilyChoice) -> None:
    family = families.resolve_family(choice)
    again = eval(repr(family), vars(families))
    assert repr(again) == repr(family) == repr(copy.deepcopy(family))
    assert families.make_family(choice, 3, 2)(torch.zeros(4, 2)).event_shape == (3,)
    assert not list(family.parameters())  # the family that is given is copied


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda value: families.LowRank(rank=value), "rank"),
        (lambda value: families.Flow(transforms=value), "transforms"),
        (lambda value: families.Flow(hidden=[value]), "each width in hidden"),
        (lambda value: families.Diagonal().setup(value, 3), "dim"),
        (lambda value: families.Diagonal().setup(3, value), "context_features"),
        (lambda value: families.FullCovariance(off_diagonal_rate=value), "off_diagonal_rate"),
        (lambda value: families.LowRank(off_diagonal_rate=value), "off_diagonal_rate"),
    ],
)
def test_options_must_be_positive(make: Any, name: str) -> None:
    for value in (0, -1, True, "2"):
        with pytest.raises(OptionError, match=f"{name} must be a (finite )?positive"):
            make(value)


def test_numbers_of_parameters() -> None:
    for dim, rank in ((1, 1), (3, 2), (30, 5)):
        found = [families.make_family(name, dim, 1).num_parameters for name in ("diagonal", "full", "low_rank")]
        assert found == [2 * dim, 2 * dim + dim * (dim - 1) // 2, (2 + rank) * dim]
