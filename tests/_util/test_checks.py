"""Option checks accept every type of number and refuse everything else, naming the argument."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from amortvi._util import checks
from amortvi.errors import OptionError

INTEGERS = [3, np.int64(3), np.uint8(3), torch.tensor(3), np.array(3)]
FLOATS = [0.5, np.float32(0.5), torch.tensor(0.5), np.array(0.5)]
NOT_NUMBERS = [None, "3", True, False, np.True_, [3], 3j, torch.ones(2), np.ones(2), math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("value", INTEGERS, ids=repr)
def test_integers_of_any_type_become_int(value: Any) -> None:
    for check in (checks.positive_int, checks.nonnegative_int):
        assert type(check("n", value)) is int
        assert check("n", value) == 3


@pytest.mark.parametrize("value", [*FLOATS], ids=repr)
def test_floats_of_any_type_become_float(value: Any) -> None:
    for check in (checks.positive_float, checks.nonnegative_float, checks.finite_float, checks.probability):
        assert type(check("n", value)) is float
        assert check("n", value) == 0.5


@pytest.mark.parametrize(
    ("check", "accepted", "refused"),
    [
        (checks.positive_int, [1, 2**70], [0, -1, 2.0]),
        (checks.nonnegative_int, [0, 7], [-1, 1.5]),
        (checks.positive_float, [1e-300, 3], [0, 0.0, -1.0]),
        (checks.nonnegative_float, [0, 0.0, 2.5], [-1e-300]),
        (checks.finite_float, [-3.5, 0, 1e300], []),
        (checks.probability, [1e-12, 0.999], [0, 1, 0.0, 1.0, -0.5]),
    ],
)
def test_ranges(check: Callable[[str, Any], Any], accepted: list[Any], refused: list[Any]) -> None:
    for value in accepted:
        assert check("n", value) == value
    for value in (*refused, *NOT_NUMBERS):
        with pytest.raises(OptionError, match=r"^n must "):
            check("n", value)


def test_lower_bound() -> None:
    assert checks.positive_int("n", 2, at_least=2) == 2
    with pytest.raises(OptionError, match="n must be an integer of at least 2; got 1"):
        checks.positive_int("n", 1, at_least=2)


def test_optional_accepts_none() -> None:
    assert checks.optional(checks.positive_int, "n", None) is None
    assert checks.optional(checks.positive_int, "n", 3) == 3
    with pytest.raises(OptionError, match="n must be a positive integer"):
        checks.optional(checks.positive_int, "n", 0)


@pytest.mark.parametrize("value", [None, 0, 2**64 - 1, np.int64(5), torch.tensor(5)], ids=repr)
def test_seeds(value: Any, request: pytest.FixtureRequest) -> None:
    offset = request.config.getoption("--seed-offset")
    expected = None if value is None else (int(value) + offset) % 2**64
    assert checks.seed_or_none(value) == (value if offset else expected)


@pytest.mark.parametrize("value", [-1, 2**64, 1.0, "0", True], ids=repr)
def test_seeds_out_of_range(value: Any) -> None:
    with pytest.raises(OptionError, match="seed must be an integer from 0"):
        checks.seed_or_none(value)


def test_layer_widths() -> None:
    assert checks.layer_widths("hidden", [3, np.int64(4)]) == (3, 4)
    assert checks.layer_widths("hidden", ()) == ()
    for wrong in (8, [8, 0], [2.5], ["a"]):
        with pytest.raises(OptionError, match="hidden"):
            checks.layer_widths("hidden", wrong)
