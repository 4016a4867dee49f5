"""Test statistics for predictive checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from amortvi.errors import OptionError, quoted

__all__ = ["NAMED", "Statistic", "Statistics", "choose", "evaluate"]

Statistic: TypeAlias = str | Callable[[Tensor], Any]
"""A name in `NAMED`, or a callable that maps the values of a site, ``(N, *nested, *event)``, to one or several numbers."""

Statistics: TypeAlias = Sequence[Statistic] | Mapping[str, Statistic]
"""Several statistics; a mapping names them."""


def _mean(values: Tensor, dims: list[int]) -> Tensor:
    return values.nanmean(dims)


def _std(values: Tensor, dims: list[int]) -> Tensor:
    return (values - values.nanmean(dims, keepdim=True)).square().nanmean(dims).sqrt()


def _min(values: Tensor, dims: list[int]) -> Tensor:
    return -_max(-values, dims)


def _max(values: Tensor, dims: list[int]) -> Tensor:
    missing = values.isnan()
    return values.masked_fill(missing, -torch.inf).amax(dims).masked_fill(missing.all(dims), torch.nan)


def _zeros(values: Tensor, dims: list[int]) -> Tensor:
    return torch.where(values.isnan(), torch.nan, (values == 0).to(values.dtype)).nanmean(dims)


NAMED: dict[str, Callable[[Tensor, list[int]], Tensor]] = dict(mean=_mean, std=_std, min=_min, max=_max, zeros=_zeros)
"""The statistics that can be chosen by name; ``zeros`` is the proportion of zeros. Missing values (NaN) are ignored."""


def choose(statistics: Statistics | None, *, discrete: bool) -> dict[str, Statistic]:
    """Return the chosen statistics by name; by default all named ones, with ``zeros`` for discrete data only.

    Raises:
        OptionError: the choice is empty, two statistics have the same name, or one is neither a known name nor a callable.
    """
    if statistics is None:
        return {name: name for name in NAMED if discrete or name != "zeros"}
    if isinstance(statistics, str) or not isinstance(statistics, Iterable):
        raise OptionError(f"statistics must be a list or a mapping of names or callables; got {statistics!r}.")
    if isinstance(statistics, Mapping):
        chosen = [(str(name), statistic) for name, statistic in statistics.items()]
    else:
        chosen = [(s if isinstance(s, str) else getattr(s, "__name__", repr(s)), s) for s in statistics]
    for name, statistic in chosen:
        if not callable(statistic) and statistic not in NAMED:
            raise OptionError(f"statistics must be among {list(NAMED)} or callables; got {statistic!r} for {name!r}.")
    if not chosen or len(dict(chosen)) < len(chosen):
        raise OptionError(
            f"statistics must have different names, and there must be at least one; got {[name for name, _ in chosen]}. Pass a "
            f"mapping to name them."
        )
    return dict(chosen)


def evaluate(name: str, statistic: Statistic, values: Tensor, site: str) -> Tensor:
    """Return a statistic of the values of a site, flattened, in double precision.

    Raises:
        OptionError: the statistic fails, or does not return finite numbers.
    """
    if isinstance(statistic, str):
        return NAMED[statistic](values.double(), list(range(values.dim()))).reshape(1)
    try:
        found = torch.as_tensor(statistic(values)).detach().cpu().double().flatten()
    except Exception as error:  # the user's function can raise anything; the message says what it was called with
        raise OptionError(
            f"statistic {name!r} failed on the values of site {site!r}, of shape {tuple(values.shape)}: {quoted(error)}"
        ) from error
    if not found.numel() or not bool(torch.isfinite(found).all()):
        raise OptionError(
            f"statistic {name!r} must return finite numbers for the values of site {site!r}; got {found.tolist()[:5]}. Values "
            f"that the model masks are NaN: ignore them, for example with torch.nanmean."
        )
    return found
