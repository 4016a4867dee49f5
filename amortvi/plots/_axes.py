"""The Axes that a plot draws on, with legend and color bar."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from amortvi._util.lazy import require
from amortvi.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

__all__ = [
    "axes_or_new",
    "draw_color_bar",
    "legend_above",
    "legend_beside",
    "legend_inside",
    "matplotlib_module",
    "point_area",
]


def matplotlib_module(name: str) -> ModuleType:
    """Import ``name``, a module of matplotlib, or raise `MissingDependencyError` with the name of the extra."""
    return require(name, extra="plots", purpose="plotting")


def axes_or_new(ax: Axes | None, figsize: tuple[float, float] | None = None) -> Axes:
    """Return ``ax``, or the Axes of a new figure if it is ``None``.

    Args:
        ax: the argument of the plot.
        figsize: width and height of a new figure in inches; by default those of matplotlib.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OptionError: ``ax`` is something else, such as the array that ``pyplot.subplots(2)`` returns.
    """
    if ax is None:
        # Constrained layout keeps labels, legends and color bars inside the figure.
        created: Axes = matplotlib_module("matplotlib.pyplot").subplots(figsize=figsize, layout="constrained")[1]
        return created
    kind: type[Axes] = matplotlib_module("matplotlib.axes").Axes
    if not isinstance(ax, kind):
        raise OptionError(f"ax must be one matplotlib Axes; got {type(ax).__name__}.")
    return ax


def legend_beside(ax: Axes, **options: Any) -> None:
    """Draw a legend to the right of the Axes, where it covers no data."""
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, **options)


def legend_above(ax: Axes) -> None:
    """Draw a legend of two columns above the Axes, where it covers no data; long tick labels leave room to its left."""
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=2)


def legend_inside(ax: Axes, **options: Any) -> None:
    """Draw a legend of two columns inside the Axes, whose upper limit is raised so that it covers no data."""
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + 0.2 * (top - bottom))
    ax.legend(loc="upper right", frameon=False, ncols=2, **options)


def draw_color_bar(ax: Axes, colors: ScalarMappable, label: str) -> None:
    """Draw the color bar of ``colors`` beside ``ax``."""
    ax.figure.colorbar(colors, ax=ax, label=label)


def point_area(count: int) -> float:
    """Return the area of each of ``count`` points: the more points, the smaller, so that they do not hide each other."""
    return min(max(12_000 / count, 4.0), 30.0)
