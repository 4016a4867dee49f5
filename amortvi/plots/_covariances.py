"""Covariances of a few observations out of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from amortvi.errors import FamilyError, OptionError
from amortvi.posterior import Posterior

__all__ = ["check_posterior", "covariances_of"]


def check_posterior(posterior: Any) -> Posterior:
    """Return ``posterior``, or raise `OptionError` if it is something else, such as the estimator."""
    if not isinstance(posterior, Posterior):
        raise OptionError(f"posterior must be the Posterior that vi.posterior(x) returns; got {type(posterior).__name__}.")
    return posterior


def covariances_of(posterior: Posterior, rows: Sequence[int]) -> npt.NDArray[np.float64]:
    """Return the covariance of the unconstrained latent vector of some observations.

    Observations are read up to the last one asked for, and covariances made only in the chunks that hold one.

    Args:
        posterior: of ``N`` observations.
        rows: positions in it, increasing.

    Returns:
        ``(len(rows), D, D)``; fewer where the posterior ends before the last row.

    Raises:
        FamilyError: the family has no covariance in closed form.
    """
    dim = posterior.latents.dim
    found, start = [np.empty((0, dim, dim))], 0
    for batch, q in posterior.chunks(dim * dim):
        inside = [row - start for row in rows if start <= row < start + batch.size]
        if inside:
            if not hasattr(type(q), "covariance_matrix"):
                raise FamilyError(
                    f"{type(q).__name__} has no covariance in closed form: draw it from posterior.sample(1000)."
                )
            found.append(q.covariance_matrix[inside].double().cpu().numpy())
        start += batch.size
        if start > rows[-1]:
            break
    return np.concatenate(found)
