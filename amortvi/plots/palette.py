"""The colors of plots: a fixed color for each family, and a sequence for other categories."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable

__all__ = ["PALETTE", "color", "family_color", "family_colors"]

# Six colors of Okabe and Ito (2008), distinguishable with a color vision deficiency, and four that are dark enough on white.
PALETTE = (
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # green
    "#E69F00",  # orange
    "#CC79A7",  # pink
    "#56B4E9",  # sky blue
    "#333333",  # dark gray
    "#8A8A00",  # olive
    "#6A1B9A",  # purple
    "#8C510A",  # brown
)

_FAMILIES = {
    "banded": "#56B4E9",
    "diagonal": "#0072B2",
    "flow": "#6A1B9A",
    "full": "#D55E00",
    "full_covariance": "#D55E00",  # the label of the class
    "low_rank": "#009E73",
    "mixture": "#E69F00",
    "structured": "#8C510A",
    "student_t": "#CC79A7",
    "top_down": "#8A8A00",
}

# For other names: colors of Tol's muted scheme that differ from those above.
_OTHERS = ("#882255", "#44AA99", "#CC6677", "#332288", "#117733", "#AA4499", "#777777", "#B8860B")


def color(position: int) -> str:
    """Return the color of the category at ``position``; colors repeat after ten."""
    return PALETTE[position % len(PALETTE)]


def family_color(name: str) -> str:
    """Return the color of a family in every figure, by its label.

    Options do not matter: ``"low_rank"``, ``"LowRank(rank=5)"`` and ``"low_rank, seed 1"`` have the same color. Any other name
    has a color that depends on the name alone, so that it is the same in every figure and process.

    Args:
        name: a label, such as a key of the result of `amortvi.fit_families`.

    Returns:
        A color as ``"#RRGGBB"``.

    Example:
        >>> family_color("full"), family_color("FullCovariance")
        ('#D55E00', '#D55E00')
        >>> family_color("LowRank(rank=5)") == family_color("low_rank")
        True
    """
    leading = re.match(r"\w*", name)
    word = leading.group() if leading else ""
    family = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", word).lower()
    # hash() of a string differs between processes.
    return _FAMILIES.get(family) or _OTHERS[zlib.crc32(name.encode()) % len(_OTHERS)]


def family_colors(names: Iterable[str]) -> dict[str, str]:
    """Return the color of each name in one figure: `family_color`, or another one where two names would share it.

    The order of the names does not matter. More than about fifteen names share colors.

    Example:
        >>> family_colors(["full", "full, wide encoder"])
        {'full': '#D55E00', 'full, wide encoder': '#882255'}
    """
    found: dict[str, str] = {}
    given = list(names)
    for name in sorted(set(given)):
        wanted = family_color(name)
        free = [shade for shade in (wanted, *_OTHERS) if shade not in found.values()]
        found[name] = free[0] if free else wanted
    return {name: found[name] for name in given}
