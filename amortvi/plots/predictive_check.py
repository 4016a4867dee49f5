"""A statistic of the data compared with that of replicated data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from amortvi.diagnostics.predictive import CheckedStatistic, PredictiveCheck, predictive_check
from amortvi.errors import OptionError
from amortvi.inference import AmortizedVI
from amortvi.plots._arguments import result_of
from amortvi.plots._axes import axes_or_new, finish, legend_inside
from amortvi.plots.palette import color

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_predictive_check"]


def plot_predictive_check(
    check: PredictiveCheck | AmortizedVI,
    x: Any = None,
    *,
    statistic: str | None = None,
    site: str | None = None,
    ax: Axes | None = None,
    **options: Any,
) -> Axes:
    """Draw a histogram of one statistic of the replicated data, with a line at its value for the data.

    Args:
        check: the result of `amortvi.predictive_check`, or a fitted estimator.
        x: the observations, if an estimator is given.
        statistic: the name of the statistic, such as ``"std"``; by default that with the smallest two-sided p-value.
        site: the observed site; by default the first one that has the statistic.
        ax: the Axes to draw on; by default those of a new figure.
        options: if an estimator is given, options of `amortvi.predictive_check`.

    Returns:
        The Axes.

    Raises:
        OptionError: ``check`` is something else, or has no such statistic; or ``x`` or options came with a result.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> x, model = torch.randn(20, 2), avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).setup(x, seed=0)
        >>> ax = plot_predictive_check(avi.predictive_check(vi, x, seed=0), statistic="std", ax=Figure().subplots())
        >>> ax.get_xlabel()
        'std of x'
    """
    result = result_of("check", check, x, PredictiveCheck, predictive_check, options)
    found = _find(result, statistic, site)
    values = found.replicated.numpy()
    ax = axes_or_new(ax)
    # If all replications are equal (the minimum of many counts is often 0), the single bar needs a visible width.
    spread = np.ptp(values)
    bins: Any = "auto" if spread > 1e-12 * max(1.0, float(np.abs(values).max())) else [values[0] - 0.5, values[0] + 0.5]
    ax.hist(values, bins=bins, color="0.7", label=f"replicated ({len(values)})")
    # The legend is above the line.
    ax.axvline(found.observed, ymax=0.82, color=color(1), linewidth=2, label="data")
    detail = f"two-sided p = {found.two_sided:.2g}, {result.latents} latents"
    ax.set_xlabel(f"{found.name} of {found.site}")
    ax.set_ylabel("replicated data sets")
    legend_inside(ax)
    finish(ax, f"Data and replications: {found.name} of {found.site}", detail, grid="y")
    return ax


def _find(check: PredictiveCheck, statistic: str | None, site: str | None) -> CheckedStatistic:
    """Return the statistic with this name of this site; ``None`` matches all."""
    statistics = check.statistics
    matching = [each for each in statistics if statistic in (None, each.name) and site in (None, each.site)]
    if not matching:
        known = [f"{each.name} of {each.site}" for each in statistics]
        raise OptionError(f"statistic={statistic!r}, site={site!r} match no statistic; there are {known}.")
    return min(matching, key=lambda each: each.two_sided) if statistic is None else matching[0]
