"""How long does `import amortvi` take, compared with `import pyro`?

Each import runs in a fresh process. The start of the interpreter is not included.
"""

from __future__ import annotations

from functools import partial

from benchmarks.harness import Ratio, interleave, printed_numbers, report, start

PACKAGES = ("pyro", "amortvi")


def main() -> None:
    """Measure and report."""
    settings = start("import_time", __doc__, threads=1, repetitions=25)
    measurements = {f"import {package}": partial(_seconds, package) for package in PACKAGES}
    interleave(measurements, 1)  # reads the files into the page cache
    times = interleave(measurements, settings.repetitions)
    report(settings, times, [Ratio("import amortvi", "import pyro", at_most=1.10)], unit="seconds")


def _seconds(package: str) -> float:
    program = f"import time; start = time.perf_counter(); import {package}; print(time.perf_counter() - start)"
    (seconds,) = printed_numbers(["-c", program])
    return seconds


if __name__ == "__main__":
    main()
