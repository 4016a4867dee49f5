"""Sentences of messages."""

from __future__ import annotations

__all__ = ["capitalized"]


def capitalized(text: str) -> str:
    """Return ``text`` as the beginning of a sentence.

    Example:
        >>> capitalized("whether k-hat is small")
        'Whether k-hat is small'
    """
    return text[:1].upper() + text[1:]
