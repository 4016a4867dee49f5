"""Seeds and independent streams of random numbers that leave the caller's random state untouched."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from enum import IntEnum

import numpy as np
import torch

from amortvi._util.checks import seed_or_none
from amortvi._util.lock import exclusive

__all__ = ["Stream", "derived_seed", "random_state", "random_state_here", "reseed"]


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
