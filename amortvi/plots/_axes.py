"""The Axes to draw on."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

from amortvi._util.lazy import require
from amortvi.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

__all__ = ["axes_or_new", "color_bar", "legend_above", "legend_beside", "matplotlib_module", "point_area"]


def matplotlib_module(name: str) -> ModuleType:
    """Import ``name``, a module of matplotlib, or raise `MissingDependencyError` naming the extra that brings it."""
    return require(name, extra="plots", purpose="plotting")


def axes_or_new(ax: Axes | None, figsize: tuple[float, float] | None = None) -> Axes:
    """Return ``ax``, or the Axes of a new figure for ``None``.

    Args:
        ax: what the user gave.
        figsize: width and height of a new figure in inches; matplotlib's default for ``None``.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OptionError: ``ax`` is something else, such as the array that ``pyplot.subplots(2)`` returns.
    """
    if ax is None:
        # Constrained layout keeps labels, legends and color bars inside the figure.
        made: Axes = matplotlib_module("matplotlib.pyplot").subplots(figsize=figsize, layout="constrained")[1]
        return made
    kind: type[Axes] = matplotlib_module("matplotlib.axes").Axes
    if not isinstance(ax, kind):
        raise OptionError(f"ax must be one matplotlib Axes; got {type(ax).__name__}.")
    return ax


def legend_beside(ax: Axes, **options: Any) -> None:
    """Draw a legend to the right of the Axes: inside, it would lie on what is drawn."""
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, **options)


def legend_above(ax: Axes) -> None:
    """Draw a legend of two columns above the Axes."""
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def point_area(count: int) -> float:
    """Return the area of each of ``count`` points: the more, the smaller, so that they do not cover one another."""
    return min(max(12_000 / count, 4.0), 30.0)


def color_bar(ax: Axes, colors: ScalarMappable, label: str) -> None:
    """Draw the color bar of ``colors`` beside ``ax``."""
    ax.figure.colorbar(colors, ax=ax, label=label)
