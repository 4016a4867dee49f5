"""Option checks accept every type of number and refuse everything else, naming the argument."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from amortvi._util import checks
from amortvi.errors import OptionError

NOT_NUMBERS = [None, "3", True, False, np.True_, [3], 3j, torch.ones(2), np.ones(2), math.nan, math.inf, -math.inf]


@pytest.mark.parametrize("number", [3, 0.5])
def test_numbers_of_any_type_become_python_numbers(number: float) -> None:
    integer_checks = (checks.positive_int, checks.nonnegative_int)
    real_checks = (checks.positive_float, checks.nonnegative_float, checks.finite_float, checks.probability)
    for value in (number, np.array(number), np.array(number)[()], torch.tensor(number)):
        for check in integer_checks if number == 3 else real_checks:
            assert type(check("n", value)) is type(number)
            assert check("n", value) == number


@pytest.mark.parametrize(
    ("check", "accepted", "refused"),
    [
        (checks.positive_int, [1, 2**70], [0, -1, 2.0]),
        (partial(checks.positive_int, at_least=2), [2], [1]),
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
        with pytest.raises(OptionError, match=r"^n must .*; got "):
            check("n", value)


def test_seeds_and_other_options_that_can_be_none() -> None:
    assert (checks.optional(checks.positive_int, "n", None), checks.optional(checks.positive_int, "n", 3)) == (None, 3)
    for value in (None, 0, 2**64 - 1, np.int64(5), torch.tensor(5)):
        assert checks.seed_or_none(value) == value
    for value in (-1, 2**64, 1.0, "0", True):
        with pytest.raises(OptionError, match="seed must be an integer from 0"):
            checks.seed_or_none(value)
