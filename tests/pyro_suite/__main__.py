"""Pyro's own tests and examples, with amortvi's `SVI` in place of Pyro's: `make test-pyro PYRO=path`.

`PYRO` is a checkout of Pyro's repository, which stays as it is: its tests and examples run in a temporary copy, and Pyro
itself is the installed package. Every test and example runs twice from the same seed, once with Pyro's `SVI` and once under
`amortvi.svi.install(compile_after=2)`:

- `suite` counts the tests that pass, fail and are skipped (expected failures among them). Tests that fail only with
  amortvi's `SVI` are an error.
- `examples` compares the losses of the first steps of every program that makes an `SVI`, also through Forecaster, CEVAE
  and the like. Losses that differ by more than rounding are an error; so is a share below 17 of 19 of programs that
  compile or are refused for a stated reason. Data sets that the examples download are replaced by small random data of
  the same form, and packages that only read or draw these by inert ones (`stand_ins`).

`--svi compiled` takes `install(compile=True)` instead, so that graphs are compiled and not only recorded.
`--only tests|examples` runs one half; `--match TEXT` runs the test files or programs whose path or arguments contain it.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from tests.pyro_suite.examples import run_examples
from tests.pyro_suite.suite import run_tests


def main() -> None:
    parser = argparse.ArgumentParser(prog="make test-pyro PYRO=path")
    parser.add_argument("pyro", type=Path)
    parser.add_argument("--only", choices=["tests", "examples"])
    parser.add_argument("--match", default="")
    parser.add_argument("--svi", choices=["amortvi", "compiled"], default="amortvi")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if not (options.pyro / "tests").is_dir() or not (options.pyro / "examples").is_dir():
        parser.error(f"{options.pyro} is no checkout of Pyro: it has no tests/ and examples/")
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder)
        for part in ("tests", "examples"):
            shutil.copytree(options.pyro / part, checkout / part)
        shutil.copy(options.pyro / "setup.cfg", checkout)  # the settings of pytest
        good = [
            options.only == "examples" or run_tests(checkout, options.svi, options.match, options.workers),
            options.only == "tests" or run_examples(checkout / "examples", options.svi, options.match, options.workers),
        ]
    raise SystemExit(not all(good))


if __name__ == "__main__":
    main()
