"""Synthetic curves of a bound over the epochs."""

import math

import numpy as np


def noise(epochs: int, spread: float = 0.02, correlation: float = 0.0, seed: int = 0):
    """Return first-order autoregressive noise."""
    fresh = np.random.default_rng(seed).normal(size=epochs) * spread
    values = fresh.copy()
    for t in range(1, epochs):
        values[t] = correlation * values[t - 1] + math.sqrt(1 - correlation**2) * fresh[t]
    return values


def saturating(epochs: int, rate: float = 30.0):
    """Return a curve that rises by 30 nats in all, with the time constant ``rate``."""
    return -120 + 30 * (1 - np.exp(-np.arange(1, epochs + 1) / rate))
