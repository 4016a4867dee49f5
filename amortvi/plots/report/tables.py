"""Tables of a report: numbers as text, and a reason for each number that is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from amortvi._util.lazy import pandas as pd
from amortvi._util.text import MISSING, number

__all__ = ["Table", "table_of"]

_UNKNOWN = "not defined"


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        caption: what the table shows.
        header: the names of the columns; the first column names the rows.
        rows: the cells.
        notes: sentences below the table.
    """

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    @property
    def numeric(self) -> list[bool]:
        """Whether the cells of each column are numbers, which are aligned on the right."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.header)
        return [
            position > 0 and all(cell[:1] in "0123456789+−<—" for cell in cells)
            for position, cells in enumerate(columns)
        ]


def table_of(frame: pd.DataFrame, caption: str, *, digits: int = 3, reasons: Mapping[str, str] | None = None) -> Table:
    """Return a data frame and its index as a table.

    Args:
        frame: the data frame.
        caption: what the table shows.
        digits: the decimals of floating-point numbers.
        reasons: for a column, why its numbers may be missing.
    """
    header = [_name(name) for name in (*frame.index.names, *frame.columns)]
    rows = [
        [_cell(value, digits) for value in (*(index if isinstance(index, tuple) else (index,)), *row)]
        for index, row in zip(frame.index, frame.itertuples(index=False), strict=True)
    ]
    missing = [name for name in frame.columns if frame[name].isna().any()]
    notes = [f"{MISSING} in {_name(name)}: {(reasons or {}).get(name, _UNKNOWN)}." for name in missing]
    return Table(caption, header, rows, notes)


def _name(name: Any) -> str:
    return str(name or "").replace("_", " ")


def _cell(value: Any, digits: int) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return number(value, digits) if isinstance(value, int | float) else str(value)
