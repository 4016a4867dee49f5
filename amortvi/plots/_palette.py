"""Colors that stay apart for readers with a color vision deficiency."""

from __future__ import annotations

__all__ = ["PALETTE", "color"]

# Petroff (2021), "Accessible color sequences for data visualization": ten colors optimized for all common deficiencies.
PALETTE = (
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
)


def color(position: int) -> str:
    """Return the color of the category at ``position``; they repeat after ten."""
    return PALETTE[position % len(PALETTE)]
