"""How long does compiling take, and does `compile="auto"` ever lose by it?

Digits, a VAE 64-64-8, batches of 64; each fit in a fresh process, from its call to its end, imports not counted. `compile=True`
with an empty cache of compiled code and with the one it left; `compile="auto"`, always with an empty cache, beside eager for a
short fit, one that is just long enough to be compiled, and a long one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial

from benchmarks import settings
from benchmarks.harness import interleave
from benchmarks.processes import printed_number
from benchmarks.report import Ratio, report

SHORT = 2
AUTO = {"short": 20, "middling": 190, "long": 500}
"""Epochs, 23 steps each. The middling fit is the one that "auto" could lose most by: compiling has just begun to pay."""


def main() -> None:
    """Measure, print and save."""
    given = settings.start("compile_time", __doc__, threads=1, repetitions=3)
    cold, warm = f"compiled, {SHORT} epochs, empty cache", f"compiled, {SHORT} epochs, cache filled"
    with tempfile.TemporaryDirectory() as filled:
        _seconds("compiled", SHORT, filled)
        measurements: dict[str, Callable[[], float]] = {
            f"eager, {SHORT} epochs": partial(_seconds, "eager", SHORT, filled),
            cold: partial(_with_empty_cache, "compiled", SHORT),
            warm: partial(_seconds, "compiled", SHORT, filled),
        }
        ratios = [Ratio(cold, warm)]
        for length, epochs in AUTO.items():
            eager, auto = (f"{choice}, {length} ({epochs} epochs)" for choice in ("eager", "auto"))
            measurements[eager] = partial(_seconds, "eager", epochs, filled)
            measurements[auto] = partial(_with_empty_cache, "auto", epochs)
            ratios.append(Ratio(auto, eager, at_most=1.1))
        times = interleave(measurements, given.repetitions)
    report(given, times, ratios, unit="seconds")


def _with_empty_cache(choice: str, epochs: int) -> float:
    with tempfile.TemporaryDirectory() as empty:
        return _seconds(choice, epochs, empty)


def _seconds(choice: str, epochs: int, cache: str) -> float:
    environment = {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": cache}
    return printed_number(["-m", "benchmarks.timed_fit", choice, str(epochs)], environment)


if __name__ == "__main__":
    main()
