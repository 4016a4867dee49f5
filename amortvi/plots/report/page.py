"""A report as one HTML file that holds its figures and styles itself."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from amortvi._util.lazy import pandas as pd
from amortvi._util.lazy import require

__all__ = ["Figure", "Part", "Section", "Table", "Verdict", "drawn", "rendered", "tabled"]

_RESOLUTION = 130
_SIZE = (5.6, 3.8)
_BROAD = (7.4, 3.8)


@dataclass(frozen=True)
class Figure:
    """A picture: PNG in base 64, what it shows, and whether it is wider than others."""

    png: str
    caption: str
    broad: bool = False


@dataclass(frozen=True)
class Table:
    """A table of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one fit."""

    name: str
    fault: str
    statement: str


@dataclass(frozen=True)
class Part:
    """A piece of a section: paragraphs, then a table, then figures."""

    heading: str = ""
    paragraphs: Sequence[str] = ()
    verdicts: Sequence[Verdict] = ()
    table: Table | None = None
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Section:
    """A section with its title."""

    title: str
    parts: Sequence[Part] = field(default_factory=tuple)

    @property
    def anchor(self) -> str:
        """What links to it."""
        return re.sub(r"[^a-z]+", "-", self.title.lower()).strip("-")


def drawn(
    caption: str, plot: Callable[..., Any], *results: Any, broad: bool = False, rows: int | None = None, **options: Any
) -> Figure:
    """Draw in a figure of its own, which no window and no list of open figures knows of.

    Args:
        caption: what the picture shows.
        plot: one of `amortvi.plots`, called with ``results``, ``options`` and the Axes as ``ax``.
        results: what is drawn.
        broad: whether there is a legend beside the Axes.
        rows: how many rows a picture has whose height goes by them.
        options: of the plot.
    """
    width, height = _BROAD if broad else _SIZE
    size = (width, height if rows is None else 1.6 + 0.45 * rows)
    figure = require("matplotlib.figure", extra="report", purpose="a report").Figure(figsize=size, layout="constrained")
    plot(*results, ax=figure.subplots(), **options)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_RESOLUTION)
    return Figure(base64.b64encode(content.getvalue()).decode("ascii"), caption, broad)


def tabled(frame: pd.DataFrame, digits: int = 3) -> Table:
    """Return a data frame with its index as text."""
    names = [str(name or "").replace("_", " ") for name in frame.index.names]
    rows = [
        [*_cells(index if isinstance(index, tuple) else (index,), digits), *_cells(row, digits)]
        for index, row in zip(frame.index, frame.itertuples(index=False), strict=True)
    ]
    return Table([*names, *(str(column).replace("_", " ") for column in frame.columns)], rows)


def _cells(values: Sequence[Any], digits: int) -> list[str]:
    return [_number(value, digits) if isinstance(value, float) else str(value).replace("_", " ") for value in values]


def _number(value: float, digits: int) -> str:
    """Write a number out, a small one by its exponent, and none as minus zero."""
    if 0 < abs(value) < 0.5 * 10.0**-digits:
        return f"{value:.0e}"
    return f"{value:,.{digits}f}"


def rendered(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """Return the page."""
    jinja2 = require("jinja2", extra="report", purpose="a report")
    source = resources.files("amortvi.plots.report").joinpath("template.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page: str = environment.from_string(source).render(title=title, subtitle=subtitle, sections=sections, footer=footer)
    return page
