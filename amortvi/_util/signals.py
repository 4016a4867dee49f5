"""Signals that end a process, held back until a point at which they can be obeyed without loss."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

__all__ = ["HeldSignals"]

_HELD = (signal.SIGINT, signal.SIGTERM)
_EXIT_STATUS = 128
"""A shell adds this to the number of the signal that ended a process."""


class HeldSignals:
    """Holds back SIGINT and SIGTERM inside the context, until `obey` is called; a second one is obeyed at once.

    Outside the main thread, which alone receives signals, it does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        """The number of the signal that is held back, if any."""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in _HELD}
        return self

    def __exit__(self, error: type[BaseException] | None, *details: object) -> None:
        for number, handler in self._before.items():
            # None: a handler that was not installed by Python, and cannot be restored by it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        if error is None:
            self.obey()

    def obey(self) -> None:
        """Raise what a signal that was held back asks for: `KeyboardInterrupt`, or `SystemExit`."""
        number, self.received = self.received, None
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number is not None:
            raise SystemExit(_EXIT_STATUS + number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        again, self.received = self.received is not None, number
        if again:
            self.obey()
