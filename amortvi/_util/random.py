"""Seeds, independent streams of random numbers, and the caller's random state, which is left untouched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import torch

from amortvi._util.checks import seed_or_none

__all__ = ["Stream", "derived_seed", "random_state", "reseed"]


@contextlib.contextmanager
def random_state(seed: int | None, device: torch.device | None = None) -> Iterator[None]:
    """Draw from ``seed`` inside and restore the caller's random state on exit; ``None`` changes nothing.

    Args:
        seed: the seed, or ``None`` to continue with the caller's random state.
        device: an accelerator whose random state is to be restored too.

    Raises:
        OptionError: the seed is not an integer in range.
    """
    seed = seed_or_none(seed)
    if seed is None:
        yield
        return
    numpy_state = np.random.get_state()  # noqa: NPY002  # a model may draw from NumPy's global generator
    with _restored_generators(device):
        reseed(seed, device)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002


def reseed(seed: int | None, device: torch.device | None = None) -> None:
    """Draw from ``seed`` from now on, inside a `random_state`; ``None`` changes nothing."""
    if seed is None:
        return
    # Not torch.manual_seed: it formats a stack trace for each accelerator that is not in use.
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


@contextlib.contextmanager
def _restored_generators(device: torch.device | None) -> Iterator[None]:
    """Restore the state of PyTorch's generators on exit: that of the CPU and that of ``device``."""
    if device is not None and device.type != "cpu":
        with torch.random.fork_rng(devices=[device], device_type=device.type):
            yield
        return
    state = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(state)


class Stream(IntEnum):
    """What random numbers are used for; the streams of different purposes are independent."""

    SHUFFLE = 0
    NOISE = 1
    VALIDATION = 2
    SETUP = 3
    RESTART = 4
    REHEARSAL = 5
    SIMULATION = 6
    CALIBRATION = 7
    REFERENCE = 8


def derived_seed(seed: int | None, *keys: int) -> int | None:
    """Return a well-mixed seed for each tuple of ``keys``, or ``None`` if ``seed`` is ``None``.

    Example:
        >>> derived_seed(0, 1) == derived_seed(0, 1), derived_seed(0, 1) == derived_seed(0, 2)
        (True, False)
    """
    given = seed_or_none(seed)
    # Unlike in one list of entropy, trailing zeros count in a spawn key.
    return None if given is None else int(np.random.SeedSequence(given, spawn_key=keys).generate_state(1)[0])
