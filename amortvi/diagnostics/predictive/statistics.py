"""Statistics of data for predictive checks: numbers that a right model reproduces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from amortvi.errors import OptionError

__all__ = ["NAMED", "Statistic", "Statistics", "choose", "evaluate"]

Statistic: TypeAlias = str | Callable[[Tensor], Any]
"""A name in `NAMED`, or a callable that takes values of a site, ``(N, *nested, *event)``, and returns a number or numbers."""
Statistics: TypeAlias = Sequence[Statistic] | Mapping[str, Statistic]
"""Statistics, with names of their own where they are given by a mapping."""


def _mean(values: Tensor, dims: list[int]) -> Tensor:
    return values.nanmean(dims)


def _std(values: Tensor, dims: list[int]) -> Tensor:
    return (values - values.nanmean(dims, keepdim=True)).square().nanmean(dims).sqrt()


def _least(values: Tensor, dims: list[int]) -> Tensor:
    return _restored(values.nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf).amin(dims), values, dims)


def _largest(values: Tensor, dims: list[int]) -> Tensor:
    return _restored(values.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf).amax(dims), values, dims)


def _restored(found: Tensor, values: Tensor, dims: list[int]) -> Tensor:
    """Return NaN where every value was missing."""
    missing = values.isnan()
    for dim in sorted(dims, reverse=True):
        missing = missing.all(dim)
    return found.masked_fill(missing, torch.nan)


def _zeros(values: Tensor, dims: list[int]) -> Tensor:
    return torch.where(values.isnan(), torch.nan, (values == 0).to(values.dtype)).nanmean(dims)


NAMED: dict[str, Callable[[Tensor, list[int]], Tensor]] = {
    "mean": _mean,
    "std": _std,
    "min": _least,
    "max": _largest,
    "zeros": _zeros,
}
"""The statistics that can be chosen by name; ``zeros`` is the share of zeros. Missing values (NaN) do not count."""


def choose(statistics: Statistics | None, *, discrete: bool) -> dict[str, Statistic]:
    """Return the chosen statistics by their names; by default all, ``zeros`` for discrete data only.

    Raises:
        OptionError: one is neither a name nor a callable, two have one name, or there is none.
    """
    if statistics is None:
        return {name: name for name in NAMED if discrete or name != "zeros"}
    if isinstance(statistics, str) or not isinstance(statistics, Iterable):
        raise OptionError(f"statistics must be a list of names or callables, or a mapping; got {statistics!r}.")
    if isinstance(statistics, Mapping):
        found = [(str(name), statistic) for name, statistic in statistics.items()]
    else:
        found = [(s if isinstance(s, str) else getattr(s, "__name__", repr(s)), s) for s in statistics]
    for name, statistic in found:
        if not callable(statistic) and statistic not in NAMED:
            raise OptionError(f"statistics must be among {list(NAMED)} or callables; got {statistic!r} for {name!r}.")
    if not found or len({name for name, _ in found}) < len(found):
        raise OptionError(
            f"statistics must be one or several with different names; got {[name for name, _ in found]}. A mapping gives them "
            f"names of their own."
        )
    return dict(found)


def evaluate(name: str, statistic: Statistic, values: Tensor, site: str) -> Tensor:
    """Return a statistic of one data set, flattened, in double precision.

    Args:
        name: what the user calls it.
        statistic: the statistic.
        values: of a site, ``(N, *nested, *event)``; NaN where the model masks them.
        site: its name.

    Raises:
        OptionError: the statistic fails, or does not return finite numbers.
    """
    if isinstance(statistic, str):
        return NAMED[statistic](values.double(), list(range(values.dim()))).reshape(1)
    try:
        found = torch.as_tensor(statistic(values)).detach().cpu().double().flatten()
    except Exception as error:  # whatever a user's function raises is the user's to see, with what it was called with
        raise OptionError(
            f"statistic {name!r} failed on values of site {site!r} of shape {tuple(values.shape)}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not found.numel() or not bool(torch.isfinite(found).all()):
        raise OptionError(
            f"statistic {name!r} must return finite numbers for values of site {site!r}; got {found.tolist()[:5]}. Values that "
            f"the model masks are NaN: torch.nanmean and the like leave them out."
        )
    return found
