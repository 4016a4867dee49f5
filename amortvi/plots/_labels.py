"""Labels of observations as colors, with the key to read them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from amortvi.errors import DataError
from amortvi.plots._arrays import to_array
from amortvi.plots._axes import color_bar, legend_beside, matplotlib_module
from amortvi.plots._palette import PALETTE, color

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

__all__ = ["Categories", "Scale", "read_labels"]


@dataclass(frozen=True)
class Categories:
    """Labels that stand for a few classes.

    Args:
        names: of the classes.
        positions: the class of each observation, ``(N,)``.
    """

    names: tuple[str, ...]
    positions: npt.NDArray[np.intp]

    def colors(self) -> npt.NDArray[np.float64]:
        """Return the color of each observation, ``(N, 4)``."""
        palette: npt.NDArray[np.float64] = matplotlib_module("matplotlib.colors").to_rgba_array(PALETTE)
        return palette[self.positions]

    def draw_key(self, ax: Axes) -> None:
        """Draw a legend beside the Axes: inside, it would lie on points."""
        line = matplotlib_module("matplotlib.lines").Line2D
        handles = [line([], [], color=color(i), marker="o", linestyle="", label=n) for i, n in enumerate(self.names)]
        legend_beside(ax, handles=handles, handletextpad=0.2)


@dataclass(frozen=True)
class Scale:
    """Labels that are numbers.

    Args:
        values: of the observations, ``(N,)``; missing ones, not finite, are gray.
    """

    values: npt.NDArray[Any]

    def _mapping(self) -> ScalarMappable:
        finite = self.values[np.isfinite(self.values)]
        norm = matplotlib_module("matplotlib.colors").Normalize(finite.min(), finite.max())
        cmap = matplotlib_module("matplotlib").colormaps["viridis"].with_extremes(bad="0.8")
        mapping: ScalarMappable = matplotlib_module("matplotlib.cm").ScalarMappable(norm, cmap)
        return mapping

    def colors(self) -> npt.NDArray[np.float64]:
        """Return the color of each observation, ``(N, 4)``."""
        return self._mapping().to_rgba(np.ma.masked_invalid(self.values))

    def draw_key(self, ax: Axes) -> None:
        """Draw a color bar beside the Axes."""
        color_bar(ax, self._mapping(), "label")


def read_labels(labels: Any, observations: int) -> Categories | Scale:
    """Read labels: up to ten integers, truth values or strings are categories, other numbers a scale.

    Args:
        labels: one an observation.
        observations: how many there are.

    Raises:
        DataError: there is not one an observation, none is finite, or they are more than ten strings.

    Example:
        >>> read_labels([7, 3, 7], observations=3)
        Categories(names=('3', '7'), positions=array([1, 0, 1]))
    """
    array = to_array(labels)
    if array.shape != (observations,):
        raise DataError(f"labels must have one label an observation, ({observations},); got shape {array.shape}.")
    if array.dtype.kind == "f":
        if not np.isfinite(array).any():
            raise DataError("labels must hold a finite number; got none.")
        return Scale(array)
    is_numeric = array.dtype.kind in "biu"
    names, positions = np.unique(array if is_numeric else array.astype(str), return_inverse=True)
    if len(names) <= len(PALETTE):
        return Categories(tuple(str(name) for name in names), positions)
    if not is_numeric:
        raise DataError(f"labels must be numbers or at most {len(PALETTE)} different strings; got {len(names)}.")
    return Scale(array)
