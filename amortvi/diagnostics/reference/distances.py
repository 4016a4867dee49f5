r"""How far draws of an approximate posterior are from draws of the exact one, for each observation.

All is in the unconstrained space where posteriors are densities, and in units of the reference's standard deviations
:math:`\sigma_j`, so that it does not matter what a coordinate is measured in. With means :math:`m, m^*` and covariances
:math:`S, S^*` of draws and reference, both divided by these,

.. math::

    \text{mean error} = \Bigl(\tfrac1D \sum_j (m_j - m_j^*)^2\Bigr)^{1/2}, \qquad
    \text{covariance error} = \lVert S - S^* \rVert_F \,/\, \lVert S^* \rVert_F,

and the sliced Wasserstein distance is the root mean square, over random directions, of the Wasserstein-2 distance of
the draws projected on a direction (Bonneel, Rabin, Peyré and Pfister, 2015).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amortvi._util.lazy import pandas as pd
from amortvi._util.random import random_state
from amortvi.errors import DataError

__all__ = ["Distances", "distances", "sliced_wasserstein"]

_DIRECTIONS = 128


@dataclass(frozen=True, repr=False)
class Distances:
    """How far the draws of ``N`` observations are from their references.

    Args:
        mean_error: of the mean, in standard deviations of the reference, ``(N,)``.
        covariance_error: of the covariance, relative to its size, ``(N,)``.
        sliced_wasserstein: the sliced Wasserstein distance, in standard deviations of the reference, ``(N,)``.
        c2st_accuracy: how often a classifier tells the two apart, 0.5 where they are alike and 1 where they are not,
            ``(N,)``; ``None`` where it was not asked.
        index: the user's labels of the observations, where there are any.
    """

    mean_error: Tensor
    covariance_error: Tensor
    sliced_wasserstein: Tensor
    c2st_accuracy: Tensor | None = None
    index: Any | None = None

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {float(value.mean()):.3f}" for name, value in self._columns().items())
        return f"Distances({len(self.mean_error)} observations, on average: {means})"

    def _columns(self) -> dict[str, Tensor]:
        columns = {name: getattr(self, name) for name in ("mean_error", "covariance_error", "sliced_wasserstein")}
        return columns if self.c2st_accuracy is None else {**columns, "c2st_accuracy": self.c2st_accuracy}

    def to_frame(self) -> pd.DataFrame:
        """Return a row an observation, with a column for each distance."""
        return pd.DataFrame({name: value.numpy() for name, value in self._columns().items()}, index=self.index)


def distances(draws: Tensor, reference: Tensor, *, seed: int | None = None) -> Distances:
    """Compare draws with draws of a reference, observation by observation.

    With few draws none of the distances is zero, even of draws of the same distribution: the mean error is then about
    ``sqrt(1 / draws + 1 / reference draws)``. `Reference.noise` says how large they are by chance.

    Args:
        draws: ``(K, N, D)``.
        reference: ``(S, N, D)``.
        seed: of the random directions; leaves the caller's random state as it was.

    Raises:
        DataError: they are not of the same observations and dimension, fewer than two, or not finite; or the reference does not
            vary.

    Example:
        >>> import torch
        >>> generator = torch.Generator().manual_seed(0)
        >>> a, b = torch.randn(2, 10_000, 1, 3, generator=generator)
        >>> distances(a, b, seed=0)
        Distances(1 observations, on average: mean_error 0.022, covariance_error 0.027, sliced_wasserstein 0.031)
        >>> distances(2 * a + 1, b, seed=0).to_frame().round(1).values
        array([[1. , 3. , 1.4]])
    """
    draws, reference = (value.detach().cpu().double() for value in (draws, reference))
    if draws.dim() != 3 or draws.shape[1:] != reference.shape[1:] or min(len(draws), len(reference)) < 2:
        raise DataError(
            f"draws and reference must have shape (draws, observations, dimension), alike but for the number of draws, which is "
            f"at least 2; got {tuple(draws.shape)} and {tuple(reference.shape)}."
        )
    for name, value in (("draws", draws), ("reference", reference)):
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise DataError(f"{name} has {bad} numbers that are not finite.")
    centre, unit = reference.mean(0), reference.std(0)
    if not bool((unit > 0).all()):
        raise DataError(
            "reference does not vary in some coordinate of some observation, so nothing can be measured by it."
        )
    draws, reference = (draws - centre) / unit, (reference - centre) / unit
    exact = _covariance(reference)
    with random_state(seed):
        sliced = [sliced_wasserstein(a, b) for a, b in zip(draws.unbind(1), reference.unbind(1), strict=True)]
    return Distances(
        mean_error=draws.mean(0).square().mean(-1).sqrt(),
        covariance_error=(_covariance(draws) - exact).norm(dim=(1, 2)) / exact.norm(dim=(1, 2)),
        sliced_wasserstein=torch.stack(sliced),
    )


def _covariance(draws: Tensor) -> Tensor:
    """The covariance of draws ``(K, N, D)``: ``(N, D, D)``."""
    centred = draws - draws.mean(0)
    return torch.einsum("kni,knj->nij", centred, centred) / (len(draws) - 1)


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = _DIRECTIONS) -> Tensor:
    """Return the sliced Wasserstein-2 distance of two samples, a number.

    Args:
        a: ``(K, D)``.
        b: ``(S, D)``.
        directions: how many random directions the samples are projected on.

    Example:
        >>> points = torch.tensor([[0.0], [1.0]])
        >>> sliced_wasserstein(points, points + 3)
        tensor(3.)
    """
    direction = torch.nn.functional.normalize(torch.randn(a.shape[1], directions, dtype=a.dtype), dim=0)
    count = max(len(a), len(b))
    # The quantile functions of both, as finely as the larger sample has them.
    level = (torch.arange(count, dtype=a.dtype) + 0.5) / count
    first, second = ((value @ direction).sort(dim=0).values[(level * len(value)).long()] for value in (a, b))
    return (first - second).square().mean().sqrt()
