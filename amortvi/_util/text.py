"""Text for people: sentences of messages, numbers, and summaries for notebooks."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MISSING", "capitalized", "html_summary", "number", "p_value", "with_error"]

MISSING = "—"
"""What stands for a number that does not exist."""

_LINE = "border: 0; border-bottom: 1px solid rgba(128, 128, 128, .35)"
_CELL = f"padding: .15em 1em .15em 0; text-align: left; background: none; {_LINE}"


def capitalized(text: str) -> str:
    """Return ``text`` as the beginning of a sentence.

    Example:
        >>> capitalized("whether k-hat is small")
        'Whether k-hat is small'
    """
    return text[:1].upper() + text[1:]


def number(value: Any, digits: int = 3) -> str:
    """Return a number as text: a missing one as a dash, one too small for the decimals in scientific notation.

    Example:
        >>> number(-1234.5, 2), number(float("nan")), number(0.00001), number(7)
        ('−1,234.50', '—', '1e−05', '7')
    """
    if isinstance(value, int):
        return f"{value:,}"
    if not math.isfinite(value):
        return MISSING if math.isnan(value) else "∞" if value > 0 else "−∞"
    text = f"{value:.0e}" if 0 < abs(value) < 0.5 * 10.0**-digits else f"{value:,.{digits}f}"
    return text.replace("-", "−")


def with_error(value: float, error: float, digits: int = 3) -> str:
    """Return a number with its standard error, both with the same decimals.

    Example:
        >>> with_error(-1.5, 0.25, 2), with_error(1.5, float("nan"), 1), with_error(-0.0001, 0.0002, 2)
        ('−1.50 ± 0.25', '1.5 ± —', '0.00 ± 0.00')
    """
    value, error = (round(each, digits) + 0.0 for each in (value, error))  # without negative zeros
    return f"{number(value, digits)} ± {number(error, digits)}" if math.isfinite(value) else number(value)


def p_value(value: float) -> str:
    """Return a p-value as text.

    Example:
        >>> p_value(2e-51), p_value(0.0374)
        ('< 0.001', '0.037')
    """
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def html_summary(
    title: str,
    facts: Mapping[str, object] | None = None,
    *,
    header: Sequence[str] = (),
    rows: Sequence[Sequence[object]] = (),
    notes: Sequence[str] = (),
) -> str:
    """Return a summary of an object for a notebook, whose colors and fonts it inherits.

    Args:
        title: what the object is.
        facts: values by name.
        header: the names of the columns of a table.
        rows: its rows.
        notes: sentences below it.

    Example:
        >>> print(html_summary("Posterior", {"z": "<2>"}))
        <div><strong>Posterior</strong><div><span style="opacity: .7">z</span> &lt;2&gt;</div></div>
    """
    lines = "".join(
        f'<div><span style="opacity: .7">{_escaped(name)}</span> {_escaped(value)}</div>'
        for name, value in (facts or {}).items()
    )
    return f"<div><strong>{_escaped(title)}</strong>{lines}{_html_table(header, rows)}{''.join(map(_html_note, notes))}</div>"


def _html_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col" style="{_CELL}">{_escaped(name)}</th>' for name in header)
    cells = ([f'<td style="{_CELL}">{_escaped(value)}</td>' for value in row] for row in rows)
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
    return (
        f'<table style="border-collapse: collapse; margin: .4em 0; font-variant-numeric: tabular-nums"><thead><tr>{head}</tr>'
        f"</thead><tbody>{body}</tbody></table>"
    )


def _html_note(text: str) -> str:
    return f"<div>{_escaped(text)}</div>"


def _escaped(value: object) -> str:
    return html.escape(str(value))
