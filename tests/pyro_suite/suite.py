"""Pyro's own tests with Pyro's `SVI` and with amortvi's, and the table that compares them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TESTS = [
    "tests/infer/test_svi.py",
    "tests/infer/test_gradient.py",
    "tests/infer/test_inference.py",
    "tests/infer/test_valid_models.py",
    "tests/infer/test_enum.py",
    "tests/infer/test_multi_sample_elbos.py",
    "tests/optim",
]
GOOD = ("passed", "skipped")
SLOW = 5
"""Seconds. Longer tests, above all those of convergence, run to their end with Pyro's `SVI` only if they fail with amortvi's."""
LIMIT = 300
"""Seconds. A test that takes longer fails."""

Result = dict[str, Any]


def run_tests(checkout: Path, svi: str, pattern: str, workers: int) -> bool:
    """Run the test files whose path contains ``pattern``; return whether no test fails only with amortvi's `SVI`."""
    files = [file for file in TESTS if pattern in file]
    print(f"\nTests{'':35}{'Pyro':^32}{'amortvi':^34}")
    columns = ("passed", "failed", "skipped", "slow", "passed", "failed", "skipped")
    print(" " * 40 + "".join(f"{column:>8}" for column in columns) + "  SVIs compiled", flush=True)
    failures, known = [], []
    with ThreadPoolExecutor(workers) as pool:
        for file, (pyro, ours) in zip(files, pool.map(lambda file: _run(checkout, svi, file), files), strict=True):
            if not (checkout / file).exists():
                print(f"{file:40}  not in this checkout")
                continue
            print(f"{file:40}{_counts(pyro, 'slow')}{_counts(ours)}{ours['compiled']:6} of {ours['made']}", flush=True)
            known += [_line(test, pyro) for test in _tests(pyro, "failed")]
            failures += [_line(test, ours) for test in _tests(pyro, *GOOD) if ours["outcomes"].get(test) not in GOOD]
            if not pyro["outcomes"]:
                failures.append(f"{file}: no test ran")
    print(f"\n{len(known)} tests fail with Pyro's SVI:", *known, sep="\n  ")
    print(f"\n{len(failures)} tests fail only with amortvi's SVI:", *failures, sep="\n  ", flush=True)
    return not failures


def _run(checkout: Path, svi: str, file: str) -> tuple[Result, Result]:
    pyro = _results(checkout, "pyro", SLOW, file)
    ours = _results(checkout, svi, LIMIT, file)
    undecided = [test for test in _tests(pyro, "slow") if ours["outcomes"].get(test) not in GOOD]
    if undecided:
        again = _results(checkout, "pyro", LIMIT, *undecided)
        pyro["outcomes"] |= again["outcomes"]
        pyro["messages"] |= again["messages"]
    return pyro, ours


def _results(checkout: Path, svi: str, limit: int, *tests: str) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pytest", "-p", "swap_svi", f"--svi={svi}", f"--report={report}"]
        command += ["-p", "no:cacheprovider", "-p", "no:xdist", f"--timeout={limit}", *tests]
        path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path}
        subprocess.run(command, cwd=checkout, env=environment, capture_output=True)
        if not report.exists():  # not in this checkout, or the process died
            return {"outcomes": {}, "messages": {}, "made": 0, "compiled": 0}
        return json.loads(report.read_text())


def _tests(result: Result, *outcomes: str) -> list[str]:
    return [test for test, outcome in result["outcomes"].items() if outcome in outcomes]


def _counts(result: Result, *more: str) -> str:
    return "".join(f"{len(_tests(result, outcome)):8}" for outcome in ("passed", "failed", "skipped", *more))


def _line(test: str, result: Result) -> str:
    message = result["messages"].get(test, "no result").strip().splitlines()
    return f"{test}: {message[0]}"
