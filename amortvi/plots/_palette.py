"""Colors that stay apart for readers with a color vision deficiency."""

from __future__ import annotations

__all__ = ["PALETTE", "color"]

# The eight of Okabe and Ito (2008), then a purple and a brown far from all of them, also in simulated deficiencies.
PALETTE = (
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # green
    "#E69F00",  # orange
    "#CC79A7",  # pink
    "#56B4E9",  # sky blue
    "#000000",  # black
    "#F0E442",  # yellow
    "#6A1B9A",  # purple
    "#8C510A",  # brown
)


def color(position: int) -> str:
    """Return the color of the category at ``position``; they repeat after ten."""
    return PALETTE[position % len(PALETTE)]
