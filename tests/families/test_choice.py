"""A family is chosen by name, as a class or as an object with options."""

import copy
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from amortvi import families
from amortvi.errors import FamilyError, OptionError
from tests.families.cases import FAMILIES
from tests.properties import PROPERTY


@pytest.mark.parametrize(
    ("choice", "kind", "label"),
    [
        ("full", families.FullCovariance, "full"),
        (families.FullCovariance, families.FullCovariance, "FullCovariance"),
        (families.LowRank(rank=3), families.LowRank, "LowRank(rank=3)"),
        (
            partial(families.FullCovariance, off_diagonal_rate=0.01),
            families.FullCovariance,
            "FullCovariance(off_diagonal_rate=0.01)",
        ),
        (lambda: families.Diagonal(head=False), families.Diagonal, "Diagonal(head=False)"),
        (families.Flow(transforms=2, hidden=[8]), families.Flow, "Flow(transforms=2, hidden=(8,))"),
    ],
)
def test_choices(choice: families.FamilyChoice, kind: type[families.Family], label: str) -> None:
    assert type(families.resolve_family(choice)) is kind
    assert families.family_label(choice) == label


@pytest.mark.parametrize("name", sorted(families.NAMED))
def test_names(name: str) -> None:
    assert families.make_family(name, 3, 2)(torch.zeros(4, 2)).event_shape == (3,)


@pytest.mark.parametrize("choice", FAMILIES.values(), ids=FAMILIES.keys())
def test_labels_reproduce_the_options(choice: families.FamilyChoice) -> None:
    family = families.resolve_family(choice)
    again = eval(repr(family), vars(families))
    assert repr(again) == repr(family) == repr(copy.deepcopy(family))


def test_a_given_family_is_copied() -> None:
    family = families.LowRank(rank=2)
    made = families.make_family(family, 4, 3)
    assert made is not family
    assert not list(family.parameters())


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("banded", r"family must be one of \['diagonal', 'flow', 'full', 'low_rank'\] or .* got 'banded'"),
        (3, r"family must be one of .* got 3"),
        (None, r"family must be one of .* got None"),
        (lambda: 3, r"must return a families\.Family; it returned int"),
        (lambda dim, features: None, "failed when called without arguments: TypeError"),
    ],
)
def test_other_choices_are_refused(choice: Any, message: str) -> None:
    with pytest.raises(FamilyError, match=message):
        families.make_family(choice, 3, 3)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda value: families.LowRank(rank=value), "rank"),
        (lambda value: families.Flow(transforms=value), "transforms"),
        (lambda value: families.Flow(hidden=[value]), "each width in hidden"),
        (lambda value: families.Diagonal().setup(value, 3), "dim"),
        (lambda value: families.Diagonal().setup(3, value), "context_features"),
    ],
)
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2"])
def test_sizes_must_be_positive_integers(make: Any, name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=f"{name} must be a positive integer"):
        make(value)


@pytest.mark.parametrize("value", [0, -1, "fast", float("nan")])
def test_rates_must_be_positive(value: Any) -> None:
    for family in (families.FullCovariance, families.LowRank):
        with pytest.raises(OptionError, match="off_diagonal_rate must be a finite positive number"):
            family(off_diagonal_rate=value)


@PROPERTY
@given(dim=st.integers(1, 30))
def test_numbers_of_parameters(dim: int) -> None:
    rank = max(1, round(dim**0.5))
    expected = {"diagonal": 2 * dim, "full": 2 * dim + dim * (dim - 1) // 2, "low_rank": (2 + rank) * dim}
    for name, count in expected.items():
        assert families.make_family(name, dim, 1).num_parameters == count


def test_the_rank_is_at_most_the_dimension() -> None:
    with pytest.raises(FamilyError, match="rank must be at most the number of latent dimensions, 3; got rank=4"):
        families.make_family(families.LowRank(rank=4), 3, 3)


def test_only_parametric_families_have_parameters_for_each_observation() -> None:
    full = families.FullCovariance()
    assert families.require_parametric(full, "refine") is full
    with pytest.raises(FamilyError, match=r"refine needs a family whose posteriors have parameters .* Flow has none"):
        families.require_parametric(families.Flow(), "refine")
