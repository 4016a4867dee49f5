"""The Axes of a plot, its legend, and the colors of categories and of observations by their labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from amortvi._util.lazy import require
from amortvi.errors import DataError, OptionError
from amortvi.plots._arguments import to_array
from amortvi.plots.palette import PALETTE, color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

__all__ = [
    "HEIGHT",
    "INTERVAL",
    "WIDTH",
    "ColoredLabels",
    "Colors",
    "axes_or_new",
    "draw_color_bar",
    "finish",
    "label_colors",
    "label_ends",
    "legend_beside",
    "legend_inside",
    "matplotlib_module",
    "point_area",
    "rotation",
    "width_in_points",
    "write_beside",
]

WIDTH, HEIGHT = 4.2, 3.2
"""The size of a figure in inches."""

INTERVAL = 1.96
"""Half the width of a 95% interval of a normal distribution, in standard errors."""

_LINE, _CHARACTER = 12.0, 5.2
"""The height of a line of text and the width of a character in points."""

_MARKERS = "os^DvPX<>*"
"""One shape for each category, so that they can be told apart without colors."""


def matplotlib_module(name: str) -> ModuleType:
    """Import a module of matplotlib, or raise `MissingDependencyError` with the name of the extra."""
    return require(name, extra="plots", purpose="plotting")


def axes_or_new(ax: Axes | None, figsize: tuple[float, float] = (WIDTH, HEIGHT)) -> Axes:
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


def finish(ax: Axes, title: str, detail: str, *, grid: Literal["x", "y", "both"] | None) -> None:
    """State above the Axes what they show, and give them small text and a light grid instead of a frame.

    Args:
        ax: the Axes, with their labels.
        title: what is shown.
        detail: the second line: of how many observations, at which level. At most 42 characters fit above a figure of 8 cm.
        grid: the axes that have a grid; ``None`` removes grid and frame.
    """
    ax.set_title(f"{title}\n{detail}" if detail else title, fontsize="small")
    ax.tick_params(labelsize="small")
    for axis in (ax.xaxis, ax.yaxis):
        axis.label.set_fontsize("small")
    ax.spines[["top", "right"] if grid else ["top", "right", "bottom", "left"]].set_visible(False)
    if grid:
        ax.grid(visible=True, axis=grid, color="0.92", linewidth=0.8)
        ax.set_axisbelow(True)


def width_in_points(ax: Axes) -> float:
    """Return the width of the Axes before their layout."""
    return float(ax.get_window_extent().width) * 72 / ax.figure.dpi


def rotation(ax: Axes, names: Sequence[str]) -> int:
    """Return the angle at which the tick labels of the horizontal axis do not overlap."""
    needed = sum(_CHARACTER * (len(name) + 1) for name in names)
    return 90 if needed > width_in_points(ax) else 0


def legend_beside(ax: Axes, **options: Any) -> None:
    """Draw a legend to the right of the Axes, where it covers no data."""
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize="small", **options)


def legend_inside(ax: Axes, **options: Any) -> None:
    """Draw a legend of two columns inside the Axes, and raise their upper limit so that it covers no data."""
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + 0.2 * (top - bottom))
    spacing = {"columnspacing": 1.0, "handletextpad": 0.4, "borderaxespad": 0.1}
    ax.legend(loc="upper right", frameon=False, fontsize="small", **{"ncols": 2, **spacing, **options})


def label_ends(ax: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write labels to the right of the Axes, as close to their heights as they can be without overlap.

    Args:
        ax: the Axes, whose limits are final.
        labels: height, text and color of each.
    """
    low, high = ax.get_ylim()
    points = ax.get_window_extent().height * 72 / ax.figure.dpi
    step = _LINE * (high - low) / points
    ordered = sorted((min(max(height, low), high), text, shade) for height, text, shade in labels)
    heights = _spread([height for height, _, _ in ordered], step)
    for height, (_, text, shade) in zip(heights, ordered, strict=True):
        write_beside(ax, height, text, shade)


def write_beside(ax: Axes, height: float, text: str, shade: str = "0.1") -> None:
    """Write a text to the right of the Axes at a height."""
    ax.annotate(
        text,
        (1, height),
        xycoords=ax.get_yaxis_transform(),
        xytext=(5, 0),
        textcoords="offset points",
        color=shade,
        va="center",
        fontsize="small",
        annotation_clip=False,
    )


def _spread(heights: Sequence[float], step: float) -> list[float]:
    """Return ascending heights at least ``step`` apart that are closest to the given ascending ones (least squares).

    Example:
        >>> _spread([0.0, 0.0, 5.0], step=1.0)
        [-0.5, 0.5, 5.0]
    """
    groups: list[list[float]] = []  # neighbors that touch each other, without the steps between them
    for place, height in enumerate(heights):
        groups.append([height - place * step])
        while len(groups) > 1 and fmean(groups[-2]) >= fmean(groups[-1]):
            groups[-2:] = [groups[-2] + groups[-1]]
    centers = [fmean(group) for group in groups for _ in group]
    return [center + place * step for place, center in enumerate(centers)]


def draw_color_bar(ax: Axes, colors: ScalarMappable, label: str) -> None:
    """Draw the color bar of ``colors`` beside ``ax``."""
    # An inset stays beside Axes of fixed proportions, and does not shrink them.
    bar = ax.figure.colorbar(colors, cax=ax.inset_axes((1.03, 0.0, 0.05, 1.0)))
    bar.set_label(label, fontsize="small")
    bar.ax.tick_params(labelsize="small")
    bar.outline.set_visible(False)


def point_area(count: int) -> float:
    """Return the area of each of ``count`` points, which decreases with ``count`` so that points do not hide each other."""
    return min(max(12_000 / count, 4.0), 30.0)


Colors: TypeAlias = npt.NDArray[np.float64]
"""One RGBA color per observation, ``(N, 4)``."""


@dataclass(frozen=True)
class ColoredLabels:
    """How observations are drawn by their labels.

    Args:
        colors: the color of each observation.
        markers: for each marker, the positions of the observations that have it.
        draw_key: draws the legend or the color bar beside given Axes.
    """

    colors: Colors
    markers: Sequence[tuple[str, npt.NDArray[np.intp]]]
    draw_key: Callable[[Axes], None]


def label_colors(labels: Any, observations: int) -> ColoredLabels:
    """Return how to draw observations by their labels; if these are ``None``, all are drawn alike.

    Up to ten different integers, booleans or strings are categories; other numbers are on a scale, where NaN is gray.

    Raises:
        DataError: the number of labels is wrong, none is finite, or there are more than ten different strings.

    Example:
        >>> colors = label_colors([7, 3, 7], observations=3).colors
        >>> colors.shape, bool((colors[0] == colors[2]).all())
        ((3, 4), True)
    """
    if labels is None:
        same = np.tile(matplotlib_module("matplotlib.colors").to_rgba(color(0)), (observations, 1))
        return ColoredLabels(same, [("o", np.arange(observations))], lambda ax: None)
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


def _categories(names: Sequence[str], positions: npt.NDArray[np.intp]) -> ColoredLabels:
    """Return how to draw categories: ``positions``, ``(N,)``, in ``names``."""
    kinds = [(name, color(place), marker) for place, (name, marker) in enumerate(zip(names, _MARKERS, strict=False))]

    def draw_key(ax: Axes) -> None:
        line = matplotlib_module("matplotlib.lines").Line2D
        handles = [line([], [], color=shade, marker=marker, linestyle="", label=name) for name, shade, marker in kinds]
        legend_beside(ax, handles=handles, handletextpad=0.2)

    colors = matplotlib_module("matplotlib.colors").to_rgba_array(PALETTE)[positions]
    markers = [(marker, np.flatnonzero(positions == place)) for place, (_, _, marker) in enumerate(kinds)]
    return ColoredLabels(colors, markers, draw_key)


def _scale(values: npt.NDArray[Any]) -> ColoredLabels:
    """Return how to draw numbers, ``(N,)``; those that are not finite are gray."""
    finite = values[np.isfinite(values)]
    norm = matplotlib_module("matplotlib.colors").Normalize(finite.min(), finite.max())
    colormap = matplotlib_module("matplotlib").colormaps["viridis"].with_extremes(bad="0.8")
    mapping = matplotlib_module("matplotlib.cm").ScalarMappable(norm, colormap)
    colors = mapping.to_rgba(np.ma.masked_invalid(values))
    return ColoredLabels(colors, [("o", np.arange(len(values)))], lambda ax: draw_color_bar(ax, mapping, "label"))
