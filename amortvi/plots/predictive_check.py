"""Statistics of the data among those of replicated data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from amortvi.diagnostics.predictive.predictive_check import PredictiveCheck
from amortvi.diagnostics.predictive.site_check import CheckedStatistic
from amortvi.errors import OptionError
from amortvi.plots._axes import axes_or_new
from amortvi.plots._palette import color
from amortvi.plots._results import check_result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_predictive_check"]


def plot_predictive_check(
    check: PredictiveCheck, statistic: str | None = None, *, site: str | None = None, ax: Axes | None = None
) -> Axes:
    """Draw a histogram of one statistic of the replicated data, and a line where the data have it.

    Args:
        check: what `amortvi.predictive_check` returns.
        statistic: its name, such as ``"std"``; by default the one that is farthest out.
        site: the observed site; by default the first one that has the statistic.
        ax: where to draw; by default a new figure.

    Returns:
        The Axes.

    Raises:
        OptionError: ``check`` is something else, or has no such statistic.
        MissingDependencyError: matplotlib is not installed.

    Example:
        >>> import torch, amortvi as avi
        >>> from matplotlib.figure import Figure
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [])).fit(x, epochs=1, progress=False, seed=0)
        >>> ax = plot_predictive_check(avi.predictive_check(vi, x, seed=0), "std", ax=Figure().subplots())
        >>> ax.get_xlabel()
        'std of x'
    """
    found = _chosen(check, statistic, site)
    values = found.replicated.numpy()
    ax = axes_or_new(ax)
    # All replications may be alike, as the smallest of many counts is: then one bar of a width that can be seen.
    spread = np.ptp(values)
    bins: Any = "auto" if spread > 1e-12 * max(1.0, float(np.abs(values).max())) else [values[0] - 0.5, values[0] + 0.5]
    ax.hist(values, bins=bins, color="0.7", label=f"replicated ({len(values)})")
    ax.axvline(found.observed, color=color(1), linewidth=2, label="data")
    ax.set_title(f"two-sided p = {found.two_sided:.2g}")
    ax.set_xlabel(f"{found.name} of {found.site}")
    ax.set_ylabel("replicated data sets")
    ax.legend(frameon=False)
    return ax


def _chosen(check: Any, statistic: str | None, site: str | None) -> CheckedStatistic:
    found = check_result("check", check, PredictiveCheck, "amortvi.predictive_check").statistics
    fitting = [s for s in found if statistic in (None, s.name) and site in (None, s.site)]
    if not fitting:
        known = [f"{s.name} of {s.site}" for s in found]
        raise OptionError(f"there is no statistic {statistic!r} of site {site!r}; there is {known}.")
    return min(fitting, key=lambda s: s.two_sided) if statistic is None else fitting[0]
