"""How long does `import amortvi` take, beside `import pyro`?

Each in fresh processes, one after the other; the start of the interpreter is not counted.
"""

from __future__ import annotations

from functools import partial

from benchmarks import settings
from benchmarks.harness import interleave
from benchmarks.processes import printed_number
from benchmarks.report import Ratio, report

PACKAGES = ("pyro", "amortvi")


def main() -> None:
    """Measure, print and save."""
    given = settings.start("import_time", __doc__, threads=1, repetitions=7)
    measurements = {f"import {package}": partial(_seconds, package) for package in PACKAGES}
    interleave(measurements, 1)  # brings the files into memory
    times = interleave(measurements, given.repetitions)
    report(given, times, [Ratio("import amortvi", "import pyro", at_most=1.15)], unit="seconds")


def _seconds(package: str) -> float:
    program = f"import time; start = time.perf_counter(); import {package}; print(time.perf_counter() - start)"
    return printed_number(["-c", program])


if __name__ == "__main__":
    main()
