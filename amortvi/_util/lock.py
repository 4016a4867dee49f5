"""One thread at a time: Pyro's handlers and param store, and the global random state, belong to the whole process."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Iterator

__all__ = ["exclusive"]


class _FairLock:
    """A lock that its thread may take again, and that is handed to waiting threads in order.

    A fit releases it between epochs. An unfair lock would be taken again by the fit before a waiting thread wakes up.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._owner: int | None = None
        self._depth = 0
        self._waiting: deque[tuple[int, threading.Lock]] = deque()

    def acquire(self) -> None:
        """Wait until no other thread holds the lock."""
        me = threading.get_ident()
        if self._owner == me:
            self._depth += 1
            return
        turn = threading.Lock()
        turn.acquire()
        with self._mutex:
            if self._owner is None:
                self._owner, self._depth = me, 1
                return
            self._waiting.append((me, turn))
        try:
            turn.acquire()
        except BaseException:  # Ctrl-C while waiting
            with self._mutex:
                if (me, turn) in self._waiting:
                    self._waiting.remove((me, turn))
                else:
                    self._hand_over()
            raise

    def release(self) -> None:
        """Undo one `acquire` of this thread."""
        with self._mutex:
            self._depth -= 1
            if not self._depth:
                self._hand_over()

    def _hand_over(self) -> None:
        self._owner, self._depth = None, 0
        if self._waiting:
            self._owner, turn = self._waiting.popleft()
            self._depth = 1
            turn.release()


_LOCK = _FairLock()


def _renew() -> None:
    global _LOCK
    _LOCK = _FairLock()


if hasattr(os, "register_at_fork"):
    # The thread that held the lock does not exist in a forked process, such as a worker of a DataLoader.
    os.register_at_fork(after_in_child=_renew)


@contextlib.contextmanager
def exclusive() -> Iterator[None]:
    """Keep other threads from entering this context; a thread may enter it again.

    Whatever runs a model, draws random numbers or changes the mode of modules does so inside. Code outside amortvi that uses
    Pyro or the global random state in another thread at the same time is not kept out.
    """
    lock = _LOCK
    lock.acquire()
    try:
        yield
    finally:
        lock.release()
