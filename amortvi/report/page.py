"""A report as one HTML file that holds its figures and styles itself."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

from amortvi._checks import require

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["Figure", "Part", "Section", "Table", "Verdict", "drawn", "rendered", "tabled"]

_RESOLUTION = 130
_SIZE = (5.6, 3.8)


@dataclass(frozen=True)
class Figure:
    """A picture: PNG in base 64, and what it shows."""

    png: str
    caption: str


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


def drawn(draw: Callable[[Axes], Any], caption: str, size: tuple[float, float] = _SIZE) -> Figure:
    """Draw on Axes of a figure of its own, which no window and no list of open figures knows of."""
    figure = require("matplotlib.figure", extra="report", purpose="a report").Figure(figsize=size, layout="constrained")
    draw(figure.subplots())
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=_RESOLUTION)
    return Figure(base64.b64encode(content.getvalue()).decode("ascii"), caption)


def tabled(frame: pd.DataFrame, digits: int = 3) -> Table:
    """Return a data frame with its index as text."""
    names = [str(name or "") for name in frame.index.names]
    rows = [
        [*_cells(index if isinstance(index, tuple) else (index,), digits), *_cells(row, digits)]
        for index, row in zip(frame.index, frame.itertuples(index=False), strict=True)
    ]
    return Table([*names, *(str(column).replace("_", " ") for column in frame.columns)], rows)


def _cells(values: Sequence[Any], digits: int) -> list[str]:
    return [f"{value:,.{digits}f}" if isinstance(value, float) else str(value) for value in values]


def rendered(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """Return the page."""
    jinja2 = require("jinja2", extra="report", purpose="a report")
    source = resources.files("amortvi.report").joinpath("template.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page: str = environment.from_string(source).render(title=title, subtitle=subtitle, sections=sections, footer=footer)
    return page
