"""Figures of a report: vector graphics inside the page, whose colors follow its light or dark theme."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from amortvi._util.lazy import require

__all__ = ["Figure", "Theme", "draw_figure", "themed_colors"]

_WIDTH, _HEIGHT = 4.8, 3.4
_MOST_POINTS = 2000
"""A collection of more points is an image inside the vector graphic, which would otherwise take megabytes."""
_RESOLUTION = 200
_SETTINGS = {
    "svg.fonttype": "none",  # text remains text
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": "0.4",
    "xtick.color": "0.4",
    "ytick.color": "0.4",
    "xtick.labelcolor": "0.25",
    "ytick.labelcolor": "0.25",
    "axes.labelcolor": "0.15",
    "axes.titlesize": 10,
    "legend.fontsize": 9,
}
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_COLOR = re.compile(r"#[0-9a-fA-F]{6}(?![0-9a-fA-F])")


@dataclass(frozen=True)
class Theme:
    """The colors of text and of the page."""

    ink: str
    paper: str


_DARK = Theme(ink="#e8e6e3", paper="#17191d")
_LIGHT = Theme(ink="#000000", paper="#ffffff")


@dataclass(frozen=True)
class Figure:
    """A figure: its graphic, an SVG element; the fit, if it is about one; its title; and what else the plot says about itself."""

    svg: str
    name: str
    title: str
    detail: str

    @property
    def full_title(self) -> str:
        """The title with the name of the fit."""
        return f"{self.name}: {self.title}" if self.name else self.title

    @property
    def labeled(self) -> str:
        """The graphic as an image with a label, which assistive technology reads in place of its parts."""
        return self.svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(self.full_title)}"', 1)


def draw_figure(
    plot: Callable[..., Any], *results: Any, name: str = "", rows: int | None = None, **options: Any
) -> Figure:
    """Draw ``plot``, a function of `amortvi.plots`, outside pyplot, so that it does not join the user's open figures.

    The title of the Axes becomes text of the page, where it can wrap, and the legend is below the Axes, so that the figure fits a
    narrow page.

    Args:
        plot: the function.
        *results: its arguments.
        name: the fit, for the title.
        rows: the number of rows of the plot, if its height depends on it.
        **options: the options of the function.
    """
    style = require("matplotlib.style", extra="report", purpose="a report")
    salt = re.sub(r"\W+", "-", f"{plot.__name__}-{name}")
    # Themed colors are those of matplotlib's default style, whatever the user's is.
    with style.context(["default", {**_SETTINGS, "svg.hashsalt": salt}]):
        size = (_WIDTH, _HEIGHT if rows is None else 1.3 + 0.4 * rows)
        figure = require("matplotlib.figure", extra="report", purpose="a report").Figure(size, layout="constrained")
        ax = figure.subplots()
        plot(*results, ax=ax, **options)
        for drawn in (*ax.collections, *ax.lines):
            drawn.set_rasterized(_points(drawn) > _MOST_POINTS)
        title, *details = ax.get_title().split("\n")
        ax.set_title("")
        _move_legend(figure, ax)
        content = io.StringIO()
        figure.savefig(content, format="svg", dpi=_RESOLUTION, metadata=_NO_METADATA)
    return Figure(_embedded(content.getvalue(), salt), name, title, "; ".join(details))


def _points(drawn: Any) -> int:
    return len(drawn.get_offsets()) if hasattr(drawn, "get_offsets") else len(drawn.get_xdata())


def _move_legend(figure: Any, ax: Any) -> None:
    """Place the legend of ``ax`` below it, where it takes no width."""
    legend = ax.get_legend()
    if legend is None:
        return
    handles, labels = legend.legend_handles, [" ".join(text.get_text().split()) for text in legend.get_texts()]
    title = legend.get_title().get_text() or None
    legend.remove()
    columns = max(1, min(len(labels), 5, 56 // (max(map(len, labels)) + 6)))
    figure.legend(handles, labels, title=title, loc="outside lower center", ncols=columns, frameon=False)


def _embedded(document: str, prefix: str) -> str:
    """Return the graphic of an SVG document: ids that no other graphic on the page has, colors by name, and no size."""
    svg = document[document.index("<svg") :]
    used = set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", svg))
    svg = re.sub(r' id="([^"]+)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\1{prefix}-", svg)
    svg = re.sub(r"<svg ([^>]*?)width=\"[^\"]+\"", r"<svg \1", svg, count=1)
    svg = re.sub(r"<svg ([^>]*?)height=\"[^\"]+\"", r"<svg \1", svg, count=1)
    # Text without a color of its own is black.
    svg = re.sub(r"(<text[^>]*style=\")(?![^\"]*fill)", r"\1fill: #000000; ", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    return _COLOR.sub(lambda found: f"var(--svg-{found[0][1:].lower()}, {found[0]})", svg.strip())


def themed_colors(figures: Iterable[Figure], others: Iterable[str] = ()) -> dict[str, tuple[str, str]]:
    """Return the colors of figures, and others, by the digits that name their CSS variables, in a light and in a dark theme.

    In the dark theme, grays are between the colors of page and text as they are between white and black, and dark colors are
    lighter.
    """
    names = {name for each in figures for name in re.findall(r"var\(--svg-([0-9a-f]{6})", each.svg)}
    names |= {color[1:].lower() for color in others}
    return {name: (f"#{name}", _in_the_dark(name)) for name in sorted(names)}


def _in_the_dark(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) / 255 for i in (0, 2, 4))
    if max(red, green, blue) - min(red, green, blue) < 0.02:
        return _mixed(_DARK.ink, _DARK.paper, red)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return _mixed(f"#{color}", _LIGHT.paper, max(0.0, 0.5 - luminance))


def _mixed(first: str, second: str, share: float) -> str:
    """Return a color between two, with this share of the second."""
    pairs = ((int(first[i : i + 2], 16), int(second[i : i + 2], 16)) for i in (1, 3, 5))
    return "#" + "".join(f"{round((1 - share) * a + share * b):02x}" for a, b in pairs)
