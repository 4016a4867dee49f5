"""The example programs with Pyro's `SVI` and with amortvi's, and the table that compares them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.pyro_suite import stand_ins
from tests.pyro_suite.programs import PROGRAMS, unlisted

STEPS = 40
SECONDS = 300
TOLERANCE = 1e-5  # of a loss, times the number of steps, because rounding errors grow from step to step
REACHED = 17 / 19  # the share of programs that compile or are refused for a stated reason

RUNNER = Path(__file__).with_name("run_example.py")


@dataclass(frozen=True)
class Row:
    """One row of the table."""

    program: str
    status: str
    losses: str
    reason: str


def run_examples(examples: Path, svi: str, pattern: str, workers: int) -> bool:
    """Run the programs whose command line contains ``pattern``; return whether all is well."""
    programs = [program for program in PROGRAMS if pattern in program]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(workers) as pool:
        data = Path(folder, "data")
        data.mkdir()
        stand_ins.write_data(data)
        print(
            f"\nExamples, {STEPS} steps each: example | result | largest relative difference of a loss | reason\n",
            flush=True,
        )
        jobs = [(which, program) for program in programs for which in ("pyro", svi)]
        reports = pool.map(lambda job: _report(*job, examples=examples, data=data), jobs)
        rows = list(_rows(programs, reports))
    for program in unlisted(examples):
        print(f"{program} | not in the table of programs")
    return _summary(rows)


def _report(which: str, program: str, *, examples: Path, data: Path) -> dict[str, Any]:
    path, *arguments = program.split()
    if not (examples / path).exists():
        return {"losses": [], "error": "not in this checkout"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, RUNNER, which, str(STEPS), data, report, examples / path, *arguments]
        try:
            done = subprocess.run(command, cwd=folder, timeout=SECONDS, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return {"losses": [], "error": f"longer than {SECONDS} seconds"}
        if not report.exists():
            return {"losses": [], "error": done.stderr}
        return json.loads(report.read_text())


def _rows(programs: list[str], reports: Iterable[dict[str, Any]]) -> Iterator[Row]:
    pairs = iter(reports)
    for program in programs:
        row = _row(program, next(pairs), next(pairs))
        print(f"{row.program} | {row.status} | {row.losses} | {row.reason}", flush=True)
        yield row


def _row(program: str, pyro: dict[str, Any], ours: dict[str, Any]) -> Row:
    if not pyro["losses"]:
        return Row(program, "skipped", "", f"with Pyro: {_last_line(pyro['error']) or 'no step'}")
    if "CaptureError: " in (ours["error"] or ""):  # with compile=True, a refusal is an error
        ours = {**ours, "error": None, "refusals": [ours["error"].rpartition("CaptureError: ")[2]]}
        pyro = {**pyro, "error": None, "losses": pyro["losses"][: len(ours["losses"])]}
    if len(ours["losses"]) != len(pyro["losses"]) or bool(ours["error"]) != bool(pyro["error"]):
        steps = f"{len(ours['losses'])} steps of {len(pyro['losses'])}"
        return Row(program, "WRONG", "", f"{steps}; {_last_line(ours['error'])}")
    differences = [max(map(_difference, *pair)) for pair in zip(_terms(pyro), _terms(ours), strict=True)]
    is_equal = all(each <= TOLERANCE * step for step, each in enumerate(differences, start=1))
    refusals, audit, explanation = (_one_line(ours[name]) for name in ("refusals", "differences", "explain"))
    if not is_equal:
        status = "WRONG"
    elif audit:
        status = "ended by the audit"
    elif ours["compilations"]:
        status = f"compiled ({ours['compilations']})"
    else:
        status = "refused" if refusals else "not reached"
    return Row(program, status, f"{max(differences, default=0.0):.0e}", f"{audit} {refusals}".strip() or explanation)


def _one_line(texts: list[str]) -> str:
    return " ".join(" ".join(texts).split())


def _terms(report: dict[str, Any]) -> list[list[float]]:
    return [loss if isinstance(loss, list) else [loss] for loss in report["losses"]]


def _difference(a: float, b: float) -> float:
    if a == b or (math.isnan(a) and math.isnan(b)):
        return 0.0
    return abs(a - b) / max(abs(a), abs(b)) if math.isfinite(a - b) else math.inf


def _last_line(error: str | None) -> str:
    return (error or "").strip().rpartition("\n")[2]


def _summary(rows: list[Row]) -> bool:
    counts = Counter(row.status.partition(" (")[0] for row in rows)
    print("\n" + ", ".join(f"{count} {status}" for status, count in counts.most_common()))
    by_program: dict[str, bool] = {}
    for row in rows:
        if row.status != "skipped":
            name = row.program.split()[0]
            by_program[name] = by_program.get(name, False) or row.status.startswith(("compiled", "refused"))
    reached = sum(by_program.values())
    print(f"{reached} of {len(by_program)} programs compile or are refused for a stated reason")
    return bool(by_program) and not counts["WRONG"] and reached >= REACHED * len(by_program)
