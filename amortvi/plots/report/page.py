"""The parts of a report, and the self-contained HTML page that shows them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from amortvi._util.lazy import require
from amortvi.plots.report.figures import Figure, themed_colors
from amortvi.plots.report.tables import Table
from amortvi.plots.report.verdicts import Verdict

__all__ = ["Card", "Page", "Part", "Section", "render"]


@dataclass(frozen=True)
class Card:
    """The verdict on one fit, with the numbers on which it rests."""

    name: str
    color: str
    verdict: Verdict
    facts: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Part:
    """A part of a section: paragraphs, then verdicts, tables and figures; ``details`` are tables that can be unfolded."""

    heading: str = ""
    color: str = ""
    paragraphs: Sequence[str] = ()
    note: str = ""
    cards: Sequence[Card] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    details: Sequence[Table] = ()


@dataclass(frozen=True)
class Section:
    """A section with its title."""

    title: str
    parts: Sequence[Part]

    @property
    def anchor(self) -> str:
        """The name to which links refer."""
        return re.sub(r"[^a-z]+", "-", self.title.lower()).strip("-")


@dataclass(frozen=True)
class Page:
    """A page: its title, a line below it, the date, and its sections."""

    title: str
    subtitle: str
    date: str
    sections: Sequence[Section]

    @property
    def figures(self) -> list[Figure]:
        """The figures of all sections."""
        return [figure for section in self.sections for part in section.parts for figure in part.figures]


def render(page: Page) -> str:
    """Return the page as HTML, or raise `MissingDependencyError` without Jinja."""
    jinja2 = require("jinja2", extra="report", purpose="a report")
    folder = resources.files("amortvi.plots.report")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(folder.joinpath("template.html").read_text(encoding="utf-8"))
    options: dict[str, Any] = {
        "page": page,
        "style": folder.joinpath("style.css").read_text(encoding="utf-8"),
        "colors": themed_colors(page.figures, [card.color for s in page.sections for p in s.parts for card in p.cards]),
    }
    found: str = template.render(**options)
    return found
