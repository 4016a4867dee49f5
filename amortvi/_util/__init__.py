"""Helpers that know nothing of inference: option checks, random streams, modes, memory, lazy imports."""

__version__ = "0.1.0"
