"""The Axes of a plot, its legend, and the colors of categories and of observations by their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from amortvi._util.lazy import require
from amortvi.errors import DataError, OptionError
from amortvi.plots._arguments import to_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

__all__ = [
    "PALETTE",
    "Colors",
    "axes_or_new",
    "color",
    "draw_color_bar",
    "label_colors",
    "legend_above",
    "legend_beside",
    "legend_inside",
    "matplotlib_module",
    "point_area",
]


def matplotlib_module(name: str) -> ModuleType:
    """Import a module of matplotlib, or raise `MissingDependencyError` with the name of the extra."""
    return require(name, extra="plots", purpose="plotting")


def axes_or_new(ax: Axes | None, figsize: tuple[float, float] | None = None) -> Axes:
    """Return ``ax`` or, if it is ``None``, the Axes of a new figure of size ``figsize`` (in inches).

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
    """Draw a legend of two columns inside the Axes, and raise their upper limit so that it covers no data."""
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + 0.2 * (top - bottom))
    ax.legend(loc="upper right", frameon=False, ncols=2, **options)


def draw_color_bar(ax: Axes, colors: ScalarMappable, label: str) -> None:
    """Draw the color bar of ``colors`` beside ``ax``."""
    ax.figure.colorbar(colors, ax=ax, label=label)


def point_area(count: int) -> float:
    """Return the area of each of ``count`` points, which decreases with ``count`` so that points do not hide each other."""
    return min(max(12_000 / count, 4.0), 30.0)


# The eight colors of Okabe and Ito (2008) and two more, distinguishable with a color vision deficiency.
PALETTE = (
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # green
    "#E69F00",  # orange
    "#CC79A7",  # pink
    "#56B4E9",  # sky blue
    "#000000",  # black
    "#F0E442",  # yellow
    "#6A1B9A",  # purple
    "#8C510A",  # brown
)

Colors: TypeAlias = npt.NDArray[np.float64]
"""One RGBA color per observation, ``(N, 4)``."""

_DrawKey: TypeAlias = "Callable[[Axes], None]"


def color(position: int) -> str:
    """Return the color of the category at ``position``; colors repeat after ten."""
    return PALETTE[position % len(PALETTE)]


def label_colors(labels: Any, observations: int) -> tuple[Colors, _DrawKey]:
    """Return the color of each label, and a function that draws their legend or color bar beside given Axes.

    Up to ten different integers, booleans or strings are categories; other numbers are on a scale, where NaN is gray.

    Raises:
        DataError: the number of labels is wrong, none is finite, or there are more than ten different strings.

    Example:
        >>> colors, draw_key = label_colors([7, 3, 7], observations=3)
        >>> colors.shape, bool((colors[0] == colors[2]).all())
        ((3, 4), True)
    """
    array = to_array(labels)
    if array.shape != (observations,):
        raise DataError(f"labels must be one label per observation, ({observations},); got shape {array.shape}.")
    if array.dtype.kind == "f":
        if not np.isfinite(array).any():
            raise DataError("labels must contain a finite number; got none.")
        return _scale(array)
    is_numeric = array.dtype.kind in "biu"
    names, positions = np.unique(array if is_numeric else array.astype(str), return_inverse=True)
    if len(names) <= len(PALETTE):
        return _categories([str(name) for name in names], positions)
    if not is_numeric:
        raise DataError(f"labels must be numbers or at most {len(PALETTE)} different strings; got {len(names)}.")
    return _scale(array)


def _categories(names: Sequence[str], positions: npt.NDArray[np.intp]) -> tuple[Colors, _DrawKey]:
    """Return the colors of categories: ``positions``, ``(N,)``, in ``names``."""

    def draw_key(ax: Axes) -> None:
        line = matplotlib_module("matplotlib.lines").Line2D
        handles = [line([], [], color=color(i), marker="o", linestyle="", label=name) for i, name in enumerate(names)]
        legend_beside(ax, handles=handles, handletextpad=0.2)

    return matplotlib_module("matplotlib.colors").to_rgba_array(PALETTE)[positions], draw_key


def _scale(values: npt.NDArray[Any]) -> tuple[Colors, _DrawKey]:
    """Return the colors of numbers, ``(N,)``; those that are not finite are gray."""
    finite = values[np.isfinite(values)]
    norm = matplotlib_module("matplotlib.colors").Normalize(finite.min(), finite.max())
    colormap = matplotlib_module("matplotlib").colormaps["viridis"].with_extremes(bad="0.8")
    mapping = matplotlib_module("matplotlib.cm").ScalarMappable(norm, colormap)
    return mapping.to_rgba(np.ma.masked_invalid(values)), lambda ax: draw_color_bar(ax, mapping, "label")
