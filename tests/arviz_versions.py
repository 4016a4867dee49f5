"""One interface to ArviZ 0.x and ArviZ 1.x for the tests."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import arviz
import matplotlib
import numpy as np
import torch
import xarray
from torch import Tensor

matplotlib.use("Agg")

IS_OLD = int(arviz.__version__.partition(".")[0]) < 1


class Loo(NamedTuple):
    """Leave-one-out cross-validation: the total elpd, and elpd and k-hat of each observation."""

    total: float
    pointwise: xarray.DataArray
    pareto_k: xarray.DataArray


def groups(data: Any) -> dict[str, xarray.Dataset]:
    """Return every group as a `Dataset`."""
    names = data.groups() if IS_OLD else list(data.children)
    return {name: data[name] if IS_OLD else data[name].to_dataset() for name in names}


def loo(data: Any, **options: Any) -> Loo:
    """Return `arviz.loo`, without its warning about high k-hats."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto distribution", UserWarning)
        found = arviz.loo(data, pointwise=True, **options)
    total, pointwise = (found.elpd_loo, found.loo_i) if IS_OLD else (found.elpd, found.elpd_i)
    return Loo(float(total), pointwise, found.pareto_k)


PLOTS: dict[str, Callable[..., Any]] = {
    "forest": arviz.plot_forest,
    "pair": arviz.plot_pair,
    "distribution": arviz.plot_posterior if IS_OLD else arviz.plot_dist,
    "trace": arviz.plot_trace,
}


def plot_predictive(data: Any, *, prior: bool = False) -> Any:
    """Plot a predictive check."""
    if IS_OLD:
        return arviz.plot_ppc(data, num_pp_samples=10, group="prior" if prior else "posterior")
    return arviz.plot_ppc_dist(data, num_samples=10, group="prior_predictive" if prior else "posterior_predictive")


def psislw(log_weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return ArviZ's Pareto-smoothed, normalized log weights, ``(K, B)``, and k-hats, ``(B,)``, of log weights ``(K, B)``."""
    given = log_weights.t().contiguous().numpy()
    with np.errstate(all="ignore"):
        if IS_OLD:
            smoothed, k_hat = arviz.psislw(given)
        else:
            from arviz_stats.base import array_stats

            smoothed, k_hat = array_stats.psislw(-given)  # its argument is the log-likelihood of what is left out
    return torch.from_numpy(np.asarray(smoothed)).t(), torch.from_numpy(np.asarray(k_hat))
