"""Checks and conversions of the arguments of plots."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from torch import Tensor

from amortvi._util.keyword_options import make_options
from amortvi.errors import OptionError
from amortvi.inference import AmortizedVI
from amortvi.posterior import Posterior

__all__ = ["check_result", "position_of", "posterior_of", "result_of", "to_array"]

Result = TypeVar("Result")


def check_result(name: str, value: Any, kind: type[Result], source: str, *, or_fit: bool = False) -> Result:
    """Return ``value`` if it is of type ``kind``, which the call ``source`` returns, else raise `OptionError`.

    ``or_fit`` adds to the message that an estimator may be passed instead.
    """
    if not isinstance(value, kind):
        instead = ", or a fitted estimator and its observations" if or_fit else ""
        raise OptionError(
            f"{name} must be the {kind.__name__} that {source} returns{instead}; got {type(value).__name__}."
        )
    return value


def result_of(
    name: str, value: Any, x: Any, kind: type[Result], compute: Callable[..., Result], options: dict[str, Any]
) -> Result:
    """Return a result, or compute it from an estimator and observations: ``compute(value, x=x, **options)``.

    Args:
        name: the name of the argument.
        value: a result or a fitted estimator.
        x: the observations, if ``value`` is an estimator.
        kind: the type of the result.
        compute: the public function that returns such results.
        options: the keyword arguments of ``compute``, if ``value`` is an estimator.

    Raises:
        OptionError: ``value`` is something else, an option is unknown, or a result came with observations or options.
    """
    source = f"amortvi.{compute.__name__}"
    if isinstance(value, AmortizedVI):
        return make_options(compute, value, x=x, **options)
    found = check_result(name, value, kind, source, or_fit=True)
    if options or x is not None:
        given = [*(["x"] if x is not None else []), *options]
        raise OptionError(
            f"{name} is a result already, so {', '.join(given)} would be ignored; pass observations and options to {source}, and "
            f"what the plot shows by name."
        )
    return found


def posterior_of(value: Any, x: Any) -> Posterior:
    """Return a posterior, or that of the observations ``x`` under an estimator.

    Raises:
        OptionError: ``value`` is something else, or a posterior came with observations.
    """
    if isinstance(value, AmortizedVI):
        return value.posterior(x)
    if x is not None:
        raise OptionError("x is for an estimator: a Posterior has its own observations.")
    return check_result("posterior", value, Posterior, "vi.posterior(x)", or_fit=True)


def position_of(name: str, value: Any, size: int, items: str = "observations") -> int:
    """Return a position among ``size`` items; a negative one counts from the end. If it is out of range, raise `OptionError`.

    Example:
        >>> position_of("observation", -1, 10)
        9
    """
    try:
        position = operator.index(value)
    except TypeError:
        position = size
    if isinstance(value, bool) or not -size <= position < size:
        raise OptionError(f"{name} must be a position among the {size} {items}; got {value!r}.")
    return position % size


def to_array(value: Any) -> npt.NDArray[Any]:
    """Return a tensor (on any device, with or without gradients), array, Series or other sequence as an array."""
    return np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
