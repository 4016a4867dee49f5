"""Helpers that know nothing of inference: option checks, random streams, modes, memory, lazy imports."""
