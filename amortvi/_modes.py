"""Contexts that change a mode of modules or of the random numbers, and change it back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import IntEnum

import numpy as np
import torch
from torch import nn

from amortvi._checks import seed_or_none

__all__ = ["Stream", "derived_seed", "evaluation_mode", "kept_modes", "random_state", "reseed"]


@contextlib.contextmanager
def kept_modes(*modules: nn.Module) -> Iterator[None]:
    """Let training mode be switched inside; the mode of each submodule comes back at exit."""
    modes = {part: part.training for module in modules for part in module.modules()}
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextlib.contextmanager
def evaluation_mode(*modules: nn.Module) -> Iterator[None]:
    """Put modules in evaluation mode (no dropout, running statistics) inside; their own modes come back."""
    with kept_modes(*modules):
        for module in modules:
            module.eval()
        yield


@contextlib.contextmanager
def random_state(seed: int | None, device: torch.device | None = None) -> Iterator[None]:
    """Draw from ``seed`` inside, and give the caller's random state back at exit; ``None`` changes nothing.

    Args:
        seed: the seed, or ``None`` to go on with the caller's state.
        device: an accelerator whose state is to be kept too.

    Raises:
        OptionError: the seed is not an integer in range.
    """
    seed = seed_or_none(seed)
    if seed is None:
        yield
        return
    numpy_state = np.random.get_state()  # noqa: NPY002  # a model may draw from NumPy's global generator
    with _kept_generators(device):
        reseed(seed, device)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002


def reseed(seed: int | None, device: torch.device | None = None) -> None:
    """Draw from ``seed`` from now on, inside a `random_state`; ``None`` changes nothing."""
    if seed is None:
        return
    # Not torch.manual_seed, which notes a stack trace for each accelerator that is not in use.
    torch.default_generator.manual_seed(seed)
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


@contextlib.contextmanager
def _kept_generators(device: torch.device | None) -> Iterator[None]:
    """Give the state of PyTorch's generators back at exit: the CPU's, and that of ``device``."""
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
    """What random numbers are for; streams of different purposes do not depend on one another."""

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
    """Return a seed of its own for each tuple of ``keys``, well mixed, or ``None`` for ``None``.

    Example:
        >>> derived_seed(0, 1) == derived_seed(0, 1), derived_seed(0, 1) == derived_seed(0, 2)
        (True, False)
    """
    given = seed_or_none(seed)
    return None if given is None else int(np.random.SeedSequence([given, *keys]).generate_state(1)[0])
