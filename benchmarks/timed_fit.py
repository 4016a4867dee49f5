"""One fit on the digits in this process: prints the seconds from its call to its end. A part of `compile_time`."""

from __future__ import annotations

import argparse
import time

from benchmarks import ours, problems

CHOICES: dict[str, ours.CompileChoice] = {"compiled": True, "eager": False, "auto": "auto"}


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("choice", choices=CHOICES)
    parser.add_argument("epochs", type=int)
    given = parser.parse_args()
    problem = problems.small()
    vi = ours.estimator(problem)
    start = time.perf_counter()
    ours.fit(vi, problem, epochs=given.epochs, compile=CHOICES[given.choice])
    print(time.perf_counter() - start)


if __name__ == "__main__":
    main()
