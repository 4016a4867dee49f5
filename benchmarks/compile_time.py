"""How long does compilation take, and is `compile="auto"` ever slower than eager?

A VAE 64-64-8 on the digits, batches of 64. Each fit runs in a fresh process and is timed from call to return, without
imports. `compile=True` runs with an empty and with a filled cache of compiled code. `compile="auto"` always starts
with an empty cache; it is compared with eager for a short fit, a fit just long enough to be compiled, and a long one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial

from amortvi.compile import CompileChoice
from benchmarks.competitors import problem
from benchmarks.competitors.amortvi_fit import fits
from benchmarks.harness import Ratio, interleave, printed_number, report, start, timer

FEW_EPOCHS = 2
AUTO_EPOCHS = {"short": 20, "medium": 190, "long": 500}
"""Epochs of 23 steps. "auto" could lose most in the medium fit, in which compilation has just begun to pay off."""


def main() -> None:
    """Measure and report."""
    settings = start("compile_time", __doc__, threads=1, repetitions=3)
    cold = f"compiled, {FEW_EPOCHS} epochs, empty cache"
    warm = f"compiled, {FEW_EPOCHS} epochs, filled cache"
    with tempfile.TemporaryDirectory() as filled:
        _in_process(True, FEW_EPOCHS, filled)
        measurements: dict[str, Callable[[], float]] = {
            f"eager, {FEW_EPOCHS} epochs": partial(_in_process, False, FEW_EPOCHS, filled),
            cold: partial(_with_empty_cache, True, FEW_EPOCHS),
            warm: partial(_in_process, True, FEW_EPOCHS, filled),
        }
        ratios = [Ratio(cold, warm)]
        for length, epochs in AUTO_EPOCHS.items():
            eager, auto = (f"{choice}, {length} ({epochs} epochs)" for choice in ("eager", "auto"))
            measurements[eager] = partial(_in_process, False, epochs, filled)
            measurements[auto] = partial(_with_empty_cache, "auto", epochs)
            ratios.append(Ratio(auto, eager, at_most=1.1))
        times = interleave(measurements, settings.repetitions)
    report(settings, times, ratios, unit="seconds")


def fit_seconds(choice: CompileChoice, epochs: int) -> float:
    """Return the time of one fit in this process."""
    return timer(fits(problem.small(), epochs, compile=choice).run)()


def _with_empty_cache(choice: CompileChoice, epochs: int) -> float:
    with tempfile.TemporaryDirectory() as empty:
        return _in_process(choice, epochs, empty)


def _in_process(choice: CompileChoice, epochs: int, cache: str) -> float:
    program = f"from benchmarks.compile_time import fit_seconds; print(fit_seconds({choice!r}, {epochs}))"
    return printed_number(["-c", program], {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": cache})


if __name__ == "__main__":
    main()
