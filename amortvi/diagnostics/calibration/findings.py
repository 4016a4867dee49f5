"""What a test of calibration answers."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True)
class Finding:
    """The answer of one test.

    Args:
        statistic: how large the effect is.
        p_value: how rarely an exact posterior gives one as large.
        word: what is wrong, if that is too rare.
    """

    statistic: float
    p_value: float
    word: str
