"""The Axes to draw on."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from amortvi._checks import require
from amortvi.errors import OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

__all__ = ["axes_or_new", "color_bar", "matplotlib_module"]


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


def color_bar(ax: Axes, colors: ScalarMappable, label: str) -> None:
    """Draw the color bar of ``colors`` beside ``ax``."""
    ax.figure.colorbar(colors, ax=ax, label=label)
