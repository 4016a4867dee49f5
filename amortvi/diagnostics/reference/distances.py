r"""Distances between draws from an approximate posterior and draws from the exact one, for each observation.

Draws are compared in the unconstrained space, in which posteriors have densities. Each coordinate is divided by the standard
deviation of its reference draws, because a distance must not depend on units. With means :math:`m, m^*` and covariances
:math:`S, S^*` of the scaled draws and reference draws,

.. math::

    \text{mean error} = \Bigl(\tfrac1D \sum_j (m_j - m_j^*)^2\Bigr)^{1/2}, \qquad
    \text{covariance error} = \lVert S - S^* \rVert_F \,/\, \lVert S^* \rVert_F,

and the sliced Wasserstein distance is the root mean square, over random directions, of the Wasserstein-2 distance of the draws
projected on a direction (Bonneel, Rabin, Peyré and Pfister, 2015).
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


@dataclass(frozen=True, repr=False, eq=False)
class Distances:
    """The distances of the draws of ``N`` observations from their reference draws.

    Args:
        mean_error: the error of the mean, in standard deviations of the reference, ``(N,)``.
        covariance_error: the relative error of the covariance, ``(N,)``.
        sliced_wasserstein: the sliced Wasserstein distance, in standard deviations of the reference, ``(N,)``.
        c2st_accuracy: the accuracy of a classifier that tells draws and reference draws apart, ``(N,)``: 0.5 for equal and 1
            for disjoint distributions; ``None`` if it was not requested.
        index: the user's labels of the observations, if any.
    """

    mean_error: Tensor
    covariance_error: Tensor
    sliced_wasserstein: Tensor
    c2st_accuracy: Tensor | None = None
    index: Any | None = None

    def __repr__(self) -> str:
        means = ", ".join(f"{name} {float(value.mean()):.3f}" for name, value in self._columns().items())
        count = len(self.mean_error)
        return f"Distances({count} observation{'s' * (count != 1)}, mean: {means})"

    def _columns(self) -> dict[str, Tensor]:
        names = ("mean_error", "covariance_error", "sliced_wasserstein", "c2st_accuracy")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def to_frame(self) -> pd.DataFrame:
        """Return one row per observation, with one column per distance."""
        return pd.DataFrame({name: value.numpy() for name, value in self._columns().items()}, index=self.index)


def distances(draws: Tensor, reference: Tensor, *, seed: int | None = None) -> Distances:
    """Compare draws with reference draws, observation by observation.

    The distances are positive even for draws of the same distribution: the mean error is then about
    ``sqrt(1 / K + 1 / S)``. `Reference.noise` estimates their size under equal distributions.

    Args:
        draws: ``(K, N, D)``.
        reference: ``(S, N, D)``.
        seed: reproduces the random directions and leaves the caller's random state untouched.

    Raises:
        DataError: the shapes do not agree, there are fewer than two draws, a value is not finite, or the reference draws do not
            vary.

    Example:
        >>> import torch
        >>> exact = torch.linspace(-1, 1, 100).reshape(100, 1, 1)  # 100 draws for one observation with one latent
        >>> distances(exact + exact.std(0), exact, seed=0)
        Distances(1 observation, mean: mean_error 1.000, covariance_error 0.000, sliced_wasserstein 1.000)
    """
    draws, reference = (value.detach().cpu().double() for value in (draws, reference))
    if draws.dim() != 3 or draws.shape[1:] != reference.shape[1:] or min(len(draws), len(reference)) < 2:
        raise DataError(
            f"draws and reference must have shape (draws, observations, dimension), with at least 2 draws each and equal "
            f"observations and dimension; got {tuple(draws.shape)} and {tuple(reference.shape)}."
        )
    for name, value in (("draws", draws), ("reference", reference)):
        bad = int((~torch.isfinite(value)).sum())
        if bad:
            raise DataError(f"{name} must be finite; {bad} of its values are NaN or infinite.")
    center, unit = reference.mean(0), reference.std(0)
    if not bool((unit > 0).all()):
        raise DataError("reference must vary in every coordinate of every observation, because it sets the units.")
    draws, reference = (draws - center) / unit, (reference - center) / unit
    exact = _covariance(reference)
    with random_state(seed):
        sliced = [sliced_wasserstein(a, b) for a, b in zip(draws.unbind(1), reference.unbind(1), strict=True)]
    return Distances(
        mean_error=draws.mean(0).square().mean(-1).sqrt(),
        covariance_error=(_covariance(draws) - exact).norm(dim=(1, 2)) / exact.norm(dim=(1, 2)),
        sliced_wasserstein=torch.stack(sliced),
    )


def _covariance(draws: Tensor) -> Tensor:
    """Return the covariances, ``(N, D, D)``, of draws ``(K, N, D)``."""
    centered = draws - draws.mean(0)
    return torch.einsum("kni,knj->nij", centered, centered) / (len(draws) - 1)


def sliced_wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """Return the sliced Wasserstein-2 distance of two samples, ``(K, D)`` and ``(S, D)``, a scalar.

    Example:
        >>> points = torch.tensor([[0.0], [1.0]])
        >>> sliced_wasserstein(points, points + 3)
        tensor(3.)
    """
    direction = torch.nn.functional.normalize(torch.randn(a.shape[1], 128, dtype=a.dtype), dim=0)
    count = max(len(a), len(b))
    # Both quantile functions are evaluated at the resolution of the larger sample.
    level = (torch.arange(count, dtype=a.dtype) + 0.5) / count
    first, second = ((value @ direction).sort(dim=0).values[(level * len(value)).long()] for value in (a, b))
    return (first - second).square().mean().sqrt()
