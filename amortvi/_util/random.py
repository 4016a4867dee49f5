"""Seeds and independent streams of random numbers that leave the caller's random state untouched."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from amortvi._util.checks import seed_or_none
from amortvi._util.lock import exclusive

__all__ = [
    "Share",
    "SharedStream",
    "Stream",
    "derived_seed",
    "drawn_alike",
    "random_state",
    "random_state_here",
    "reseed",
    "standard_normal",
]


@contextlib.contextmanager
def random_state(seed: int | None, device: torch.device | None = None) -> Iterator[None]:
    """Set the seed inside the context and restore the caller's random state on exit; ``None`` changes nothing.

    The random state of ``device``, if it is an accelerator, is set and restored too. Other threads wait, also for ``None``,
    because drawing would change the random numbers of each other.
    """
    seed = seed_or_none(seed)
    with exclusive():
        if seed is None:
            yield
            return
        restore = _python_and_numpy_state()
        accelerators = [device] if device is not None and device.type != "cpu" else []
        with torch.random.fork_rng(accelerators, device_type=accelerators[0].type if accelerators else "cuda"):
            reseed(seed, device)
            try:
                yield
            finally:
                restore()


def reseed(seed: int | None, device: torch.device | None = None) -> None:
    """Set the seed from here on, inside a `random_state`; ``None`` changes nothing."""
    if seed is None:
        return
    # Not torch.manual_seed: it formats a stack trace for each accelerator that is not in use.
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # as Python's, for models that draw from it


def random_state_here() -> Callable[[], None]:
    """Return a function that restores the current random state of the CPU."""
    torch_state, restore = torch.get_rng_state(), _python_and_numpy_state()

    def restore_all() -> None:
        torch.set_rng_state(torch_state)
        restore()

    return restore_all


def _python_and_numpy_state() -> Callable[[], None]:
    """Return a function that restores the global generators from which a model or a data set may draw."""
    python_state, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002

    def restore() -> None:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002

    return restore


class Stream(IntEnum):
    """The purposes of random numbers; the streams of different purposes are independent."""

    SHUFFLE = 0
    NOISE = 1
    VALIDATION = 2
    SETUP = 3
    RESTART = 4
    REHEARSAL = 5
    SIMULATION = 6
    CALIBRATION = 7
    REFERENCE = 8
    SPLIT = 9


def derived_seed(seed: int | None, *keys: int) -> int | None:
    """Return a well-mixed seed for each tuple of ``keys``, or ``None`` if ``seed`` is ``None``.

    Example:
        >>> derived_seed(0, 1) == derived_seed(0, 1), derived_seed(0, 1) == derived_seed(0, 2)
        (True, False)
    """
    given = seed_or_none(seed)
    # Unlike in one list of entropy, trailing zeros count in a spawn key.
    return None if given is None else int(np.random.SeedSequence(given, spawn_key=keys).generate_state(1)[0])


@dataclass(frozen=True)
class Share:
    """The rows of a minibatch that one of several processes computes.

    A process without a row computes the first one with weight zero, so that all processes take the same steps.

    Args:
        start: the first row.
        stop: the row after the last one.
        size: the number of rows of the minibatch.
        weight: the weight of the mean over the rows in the mean over the minibatch.
    """

    start: int
    stop: int
    size: int
    weight: float

    @classmethod
    def of(cls, size: int, rank: int, count: int) -> Share:
        """Return the share of process ``rank`` of ``count`` in a minibatch of ``size`` rows.

        Example:
            >>> Share.of(5, 0, 2), Share.of(5, 1, 2)
            (Share(start=0, stop=2, size=5, weight=0.4), Share(start=2, stop=5, size=5, weight=0.6))
        """
        start, stop = rank * size // count, (rank + 1) * size // count
        return cls(start, stop, size, (stop - start) / size) if stop > start else cls(0, 1, size, 0.0)

    @property
    def rows(self) -> slice:
        """The rows."""
        return slice(self.start, self.stop)


class SharedStream:
    """Random numbers that several processes draw alike, beside those that each of them draws alone.

    Args:
        rank: the number of this process.
        device: the device on which random numbers are drawn.
    """

    def __init__(self, rank: int, device: torch.device) -> None:
        self._rank, self._device = rank, device
        self._states: list[Tensor] = []
        self._before: list[Tensor] = []

    def begin(self) -> None:
        """Continue the current random state, equal in all processes, as the shared one, and draw alone from here on."""
        self._states = self._random_state()
        reseed(derived_seed(int(torch.randint(2**62, ())), self._rank), self._device)

    @contextlib.contextmanager
    def sharing(self, share: Share) -> Iterator[None]:
        """Compute a share of a minibatch: `standard_normal` and `drawn_alike` use the shared random numbers."""
        self._before = self._states
        token = _SHARED.set((self, share))
        try:
            yield
        finally:
            _SHARED.reset(token)

    def rewind(self) -> None:
        """Draw the shared random numbers of this minibatch once more."""
        self._states = self._before

    @contextlib.contextmanager
    def alike(self) -> Iterator[None]:
        """Draw from the shared random numbers."""
        own = self._random_state()
        self._restore(self._states)
        try:
            yield
        finally:
            self._states = self._random_state()
            self._restore(own)

    def _random_state(self) -> list[Tensor]:
        found = [torch.get_rng_state()]
        if self._device.type != "cpu":
            found.append(torch.get_device_module(self._device).get_rng_state(self._device))
        return found

    def _restore(self, states: Sequence[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device.type != "cpu":
            torch.get_device_module(self._device).set_rng_state(states[1], self._device)


_SHARED: ContextVar[tuple[SharedStream, Share] | None] = ContextVar("shared", default=None)


def drawn_alike() -> contextlib.AbstractContextManager[None]:
    """Return a context whose draws are the same in all processes of a fit; in a fit of one process, it changes nothing."""
    shared = _SHARED.get()
    return contextlib.nullcontext() if shared is None else shared[0].alike()


def standard_normal(shape: Sequence[int], dim: int, like: Tensor) -> Tensor:
    """Return standard normal noise of the type and device of ``like``.

    In a fit of several processes, each draws the noise of the whole minibatch and returns that of its rows, so that the noise of
    an observation does not depend on the number of processes.

    Args:
        shape: the shape of the noise.
        dim: the dimension that indexes the observations, possibly several copies of all of them, one after the other.
        like: determines type and device.
    """
    shared = _SHARED.get()
    if shared is None:
        return torch.randn(*shape, dtype=like.dtype, device=like.device)
    stream, share = shared
    rows = share.stop - share.start
    whole = (*shape[:dim], shape[dim] // rows, share.size, *shape[dim + 1 :])
    with stream.alike():
        noise = torch.randn(*whole, dtype=like.dtype, device=like.device)
    return noise.narrow(dim + 1, share.start, rows).flatten(dim, dim + 1)
