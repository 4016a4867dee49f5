"""Posteriors that are not finite or not plausible: errors and warnings that name the observations."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, but torch does not list it

from amortvi.errors import AmortviWarning, NonFiniteError
from amortvi.families import Family, TransformedNoise, marginals, moments
from amortvi.families.closed_forms import implausible
from amortvi.families.gaussians.gaussian import LARGEST_LOG_SCALE
from amortvi.posterior.moments import mean_and_std

__all__ = [
    "IMPLAUSIBLE",
    "TAIL_DOMINATED",
    "check_finite_results",
    "check_rows",
    "draws_not_finite",
    "failing_rows",
    "implausible_rows",
    "listed",
    "not_finite",
    "parameters_not_finite",
    "undefined",
    "warn_of",
]

_LISTED = 3
IMPLAUSIBLE = (
    "the posteriors of {} are implausible and say nothing about the latents: a scale or a correlation is out of the plausible "
    "range, or a location is so large that the scale is lost in rounding. Check these observations for extreme values, scale the "
    "data that the encoder sees, or refine the posteriors (AmortizedVI.refine)."
)
"""The warning about posteriors that `implausible_rows` flags."""
TAIL_DOMINATED = (
    "mean and standard deviation of the posteriors of {} rest on values of negligible probability: the standard deviation of a "
    "site exceeds a thousand times the half width of its interval from 16 to 84 %. Use the median and quantiles. If the data "
    "should tell more about these observations, check them for extreme values, or refine the posteriors (AmortizedVI.refine)."
)
"""The warning about posteriors that ``moments.tail_dominated`` flags."""


def listed(chosen: Tensor, index: Any | None) -> str:
    """Return how many observations are chosen, and the first of them with the user's labels, for a message.

    Args:
        chosen: whether each observation is meant, ``(N,)``.
        index: the user's labels of the observations, if any.

    Example:
        >>> listed(torch.tensor([False, True, True]), None)
        '2 of 3 observations (at positions 1, 2)'
        >>> listed(torch.tensor([False, True]), ["a", "b"])
        "1 of 2 observations (at position 1: 'b')"
    """
    positions = chosen.nonzero().flatten().tolist()
    more = ", ..." if len(positions) > _LISTED else ""
    shown = ", ".join(map(str, positions[:_LISTED])) + more
    if index is not None:
        labels = (index[position] for position in positions[:_LISTED])
        shown += ": " + ", ".join(repr(label) if isinstance(label, str) else str(label) for label in labels) + more
    return f"{len(positions)} of {len(chosen)} observations (at position{'s' * (len(positions) != 1)} {shown})"


def not_finite(values: Tensor, observation_dim: int = 0) -> Tensor:
    """Return which observations have a value that is NaN or infinite, ``(N,)``."""
    return ~values.isfinite().movedim(observation_dim, 0).reshape(values.shape[observation_dim], -1).all(-1)


def undefined(log_density: Tensor, observation_dim: int = 0) -> Tensor:
    """Return which observations have a log density that is NaN or infinite, ``(N,)``; a density of zero is defined."""
    return not_finite(log_density.masked_fill(log_density == -torch.inf, 0.0), observation_dim)


def draws_not_finite(values: Mapping[str, Tensor]) -> Tensor:
    """Return which observations have a draw that is NaN or infinite, ``(1, N)``, from draws of each site, ``(K, N, *shape)``."""
    return torch.stack([not_finite(value, observation_dim=1) for value in values.values()]).any(0, keepdim=True)


def parameters_not_finite(q: Distribution) -> Tensor | None:
    """Return which posteriors have parameters that are NaN or infinite, ``(B,)``; ``None`` if the moments do not tell."""
    marginal = marginals(q)
    if isinstance(marginal, Normal):
        return not_finite(marginal.mean) | not_finite(marginal.stddev)
    if not isinstance(q, TransformedNoise):
        return None
    known = moments(q)
    # The variance of a mixture may be infinite, because the square of a finite number is.
    return not_finite(q.loc) if known is None else not_finite(known[0]) | known[1].isnan().any(-1)


def failing_rows(family: Family, context: Tensor) -> Tensor:
    """Return which contexts, ``(B, C)``, give no posterior with finite parameters, ``(B,)``."""
    bad = not_finite(context)
    try:
        by_family = parameters_not_finite(family(context.masked_fill(bad.unsqueeze(-1), 0.0)))
    except LinAlgError:  # a family that factorizes a matrix
        if len(context) == 1:
            return torch.ones_like(bad)
        return torch.cat([failing_rows(family, row) for row in context.split(1)])
    return bad if by_family is None else bad | by_family


def implausible_rows(q: Distribution, device: torch.device | None = None) -> Tensor:
    """Return which posteriors are implausible, ``(B,)``.

    If the distribution does not know (``families.closed_forms.implausible``), these are the posteriors with a standard deviation
    above that of the Gaussian families, or with a mean so large that the standard deviation is lost in rounding.

    Args:
        q: posteriors.
        device: where they are.
    """
    by_family = implausible(q)
    if by_family is not None:
        return by_family
    mean, std = mean_and_std(q, device)
    bad = (std > math.exp(LARGEST_LOG_SCALE)) | (torch.finfo(std.dtype).eps * mean.abs() > std)
    return bad.any(-1)


def check_finite_results(values: Mapping[str, Tensor], what: str, index: Any | None, observation_dim: int = 0) -> None:
    """Raise `NonFiniteError` if a result is NaN or infinite.

    Args:
        values: results by the name of the site, with observations in dimension ``observation_dim``.
        what: what they are, such as ``"the mean"``.
        index: the user's labels of the observations, if any.
        observation_dim: the dimension that indexes observations.
    """
    for name, value in values.items():
        check_rows(not_finite(value, observation_dim), f"{what} of {name!r}", index)


def check_rows(bad: Tensor, what: str, index: Any | None) -> None:
    """Raise `NonFiniteError` if ``what`` is not finite for an observation, ``(N,)``."""
    if bad.any():
        raise NonFiniteError(
            f"NaN or infinity in {what} for {listed(bad, index)}: a number exceeds the range of floating-point numbers, or a "
            f"parameter of the model is not finite. Check these observations for extreme values, scale the data that the encoder "
            f"sees, or leave the observations out with posterior.select."
        )


def warn_of(problem: str, flagged: Tensor, index: Any | None, *, stacklevel: int) -> None:
    """Issue a warning if posteriors have a ``problem``, ``(N,)``: `IMPLAUSIBLE` or `TAIL_DOMINATED`."""
    if flagged.any():
        warnings.warn(problem.format(listed(flagged, index)), AmortviWarning, stacklevel=stacklevel + 1)
