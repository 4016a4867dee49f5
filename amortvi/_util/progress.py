"""Progress bars, which leave log files alone."""

from __future__ import annotations

from typing import Any

from tqdm.auto import tqdm

__all__ = ["progress_bar"]


def progress_bar(progress: bool | None, **options: Any) -> Any:
    """Return a bar of tqdm: shown if ``progress``, and if it is ``None``, in notebooks and if standard error is a terminal.

    Example:
        >>> progress_bar(False, total=2).disable
        True
    """
    return tqdm(disable=None if progress is None else not progress, **options)
