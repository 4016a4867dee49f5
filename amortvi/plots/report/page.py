"""The parts of a report, and the self-contained HTML page that shows them."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from amortvi._util.lazy import pandas as pd
from amortvi._util.lazy import require

__all__ = ["Figure", "FitSummary", "Part", "Section", "Table", "draw_figure", "make_table", "render"]

_RESOLUTION = 130
_SIZE = (5.6, 3.8)
_WIDE = (7.4, 3.8)


@dataclass(frozen=True)
class Figure:
    """A figure: its PNG in base 64, its caption, and whether it is wider than the others."""

    png: str
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class FitSummary:
    """The verdict on one fit, with its reason."""

    name: str
    verdict: str
    statement: str


@dataclass(frozen=True)
class Part:
    """A part of a section: paragraphs, then summaries, a table and figures."""

    heading: str = ""
    paragraphs: Sequence[str] = ()
    summaries: Sequence[FitSummary] = ()
    table: Table | None = None
    figures: Sequence[Figure] = ()


@dataclass(frozen=True)
class Section:
    """A section with its title."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """The name to which links refer."""
        return re.sub(r"[^a-z]+", "-", self.title.lower()).strip("-")


def draw_figure(
    caption: str, plot: Callable[..., Any], *results: Any, wide: bool = False, rows: int | None = None, **options: Any
) -> Figure:
    """Draw ``plot``, a function of `amortvi.plots`, outside pyplot, so that it does not join the user's open figures.

    A figure with a legend beside the Axes is ``wide``; the height depends on the number of ``rows``, if given.
    """
    width, height = _WIDE if wide else _SIZE
    size = (width, height if rows is None else 1.6 + 0.45 * rows)
    figure = require("matplotlib.figure", extra="report", purpose="a report").Figure(figsize=size, layout="constrained")
    plot(*results, ax=figure.subplots(), **options)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_RESOLUTION)
    return Figure(base64.b64encode(content.getvalue()).decode("ascii"), caption, wide)


def make_table(frame: pd.DataFrame, digits: int = 3) -> Table:
    """Return a data frame and its index as text, floating-point numbers with this number of decimals."""
    header = [str(name or "").replace("_", " ") for name in (*frame.index.names, *frame.columns)]
    rows = [
        [_cell(value, digits) for value in (*(index if isinstance(index, tuple) else (index,)), *row)]
        for index, row in zip(frame.index, frame.itertuples(index=False), strict=True)
    ]
    return Table(header, rows)


def _cell(value: Any, digits: int) -> str:
    """Return a value as text: a missing number as a dash, one too small for the decimals in scientific notation."""
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "–"
    return f"{value:.0e}" if 0 < abs(value) < 0.5 * 10.0**-digits else f"{value:,.{digits}f}"


def render(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """Return the page, or raise `MissingDependencyError` without Jinja."""
    jinja2 = require("jinja2", extra="report", purpose="a report")
    source = resources.files("amortvi.plots.report").joinpath("template.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page: str = environment.from_string(source).render(title=title, subtitle=subtitle, sections=sections, footer=footer)
    return page
