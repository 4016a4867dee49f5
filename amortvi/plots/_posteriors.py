"""Checks of a posterior that is given, and of positions in it."""

from __future__ import annotations

import operator
from typing import Any

from amortvi.errors import OptionError
from amortvi.posterior.posterior import Posterior

__all__ = ["check_posterior", "position_of"]


def check_posterior(posterior: Any) -> Posterior:
    """Return ``posterior``, or raise `OptionError` if it is something else, such as the estimator."""
    if not isinstance(posterior, Posterior):
        raise OptionError(
            f"posterior must be the Posterior that vi.posterior(x) returns; got {type(posterior).__name__}."
        )
    return posterior


def position_of(name: str, value: Any, size: int, what: str = "observations") -> int:
    """Return the position from 0 that ``value`` names among ``size`` things, or raise `OptionError` naming the argument.

    Args:
        name: of the argument.
        value: what the user gave; a negative one counts from the end.
        size: how many there are.
        what: there are.

    Example:
        >>> position_of("observation", -1, 10)
        9
    """
    try:
        position = operator.index(value)
    except TypeError:
        position = size
    if isinstance(value, bool) or not -size <= position < size:
        raise OptionError(f"{name} must be a position among the {size} {what}; got {value!r}.")
    return position % size
