"""The report of a question: times, and ratios of times beside their targets, printed and saved."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.machine import describe_machine
from benchmarks.harness.settings import Settings
from benchmarks.harness.timing import ROOT, Competitor, Times

__all__ = ["RESULTS", "Ratio", "report", "report_skipped"]

RESULTS = ROOT / "runs" / "benchmarks"
"""The folder of the results, one file per question."""

MIN_REPETITIONS = 3
"""With fewer repetitions a single disturbed one can be the median, so nothing is judged."""

MAX_SPREAD = 1.5
"""The longest repetition may take this many times the median. Two threads on two cores take ten times as long while
another process occupies one of the cores, and every ratio with such a time is wrong."""


@dataclass(frozen=True)
class Ratio:
    """The time of one competitor divided by that of another.

    Args:
        of: the competitor in the numerator.
        to: the competitor in the denominator.
        at_least: the target, if the ratio should be large.
        at_most: the target, if the ratio should be small.
    """

    of: str
    to: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        """The target in words, or an empty string if there is none."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"

    def compare(self, times: Times, *, is_judged: bool) -> dict[str, Any]:
        """Return the ratio of the medians, the smallest and largest ratio of one repetition, and the verdict."""
        of, to = times[self.of], times[self.to]
        quotients = [a / b for a, b in zip(of, to, strict=True)]
        measured = statistics.median(of) / statistics.median(to)
        is_met = (self.at_least is None or measured >= self.at_least) and (
            self.at_most is None or measured <= self.at_most
        )
        verdict = "" if not self.target else "not judged" if not is_judged else "met" if is_met else "MISSED"
        return {
            "ratio": f"{self.of} / {self.to}",
            "measured": measured,
            "min": min(quotients),
            "max": max(quotients),
            "target": self.target,
            "verdict": verdict,
        }


def report(
    settings: Settings,
    times: Times,
    ratios: Sequence[Ratio],
    *,
    unit: str = "ms per step",
    competitors: Mapping[str, Competitor] | None = None,
    skipped: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Print tables of times and ratios, and save them in `RESULTS`.

    Args:
        settings: how the times were measured.
        times: all repetitions of each competitor.
        ratios: the comparisons; those with a skipped competitor are omitted.
        unit: the unit of the times.
        competitors: the competitors whose ELBO is reported.
        skipped: the competitors that did not take part, with the reason.
        notes: further information for the reader.

    Raises:
        RuntimeError: the ELBO of a competitor is not finite.
    """
    elbos = {name: each.elbo() for name, each in (competitors or {}).items() if each.elbo is not None}
    if failed := [name for name, elbo in elbos.items() if not math.isfinite(elbo)]:
        raise RuntimeError(
            f"the ELBO of these competitors is not finite, so their times mean nothing: {', '.join(failed)}"
        )
    unsteady = {name for name, values in times.items() if max(values) > MAX_SPREAD * statistics.median(values)}
    warnings = []
    if unsteady:
        warnings.append(f"UNSTEADY, repeat on an idle machine: {', '.join(sorted(unsteady))}")
    if settings.repetitions < MIN_REPETITIONS:
        warnings.append(f"fewer than {MIN_REPETITIONS} repetitions: nothing is judged")
    compared = [
        ratio.compare(
            times, is_judged=settings.repetitions >= MIN_REPETITIONS and unsteady.isdisjoint({ratio.of, ratio.to})
        )
        for ratio in ratios
        if {ratio.of, ratio.to} <= set(times)
    ]

    _print_header(settings, notes)
    _print_table(
        [f"median of {settings.repetitions}", unit, "min", "max", *(["ELBO"] if elbos else [])],
        [
            [name, *(f"{value:.4g}" for value in (statistics.median(values), min(values), max(values)))]
            + ([f"{elbos[name]:.2f}" if name in elbos else ""] if elbos else [])
            for name, values in times.items()
        ],
    )
    if compared:
        _print_table(
            ["ratio", "measured", "min", "max", "target", ""],
            [[f"{cell:.2f}" if isinstance(cell, float) else cell for cell in row.values()] for row in compared],
        )
    for warning in warnings:
        print(warning)
    for name, reason in (skipped or {}).items():
        print(f"SKIPPED {name}: {reason}")
    _save(
        settings,
        notes=list(notes),
        unit=unit,
        medians={name: statistics.median(values) for name, values in times.items()},
        repetitions=times,
        elbo=elbos,
        ratios=compared,
        warnings=warnings,
        skipped=dict(skipped or {}),
    )


def report_skipped(settings: Settings, reason: str) -> None:
    """Print and save that a question cannot be measured on this machine."""
    _print_header(settings, ())
    print(f"SKIPPED: {reason}")
    _save(settings, ratios=[], warnings=[], skipped={settings.name: reason})


def _print_header(settings: Settings, notes: Sequence[str]) -> None:
    machine = describe_machine()
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "pyro", "numpyro", "jax"))
    print(f"{settings.question}\n")
    print(f"{machine['processor']}, {machine['cores']} cores; {versions}")
    print(f"{settings.threads} threads ({settings.cores})" + (f"; {settings.epochs} epochs" if settings.epochs else ""))
    for note in notes:
        print(f"note: {note}")


def _print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    print()
    for name, *cells in [header, *rows]:
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        print("  ".join([name.ljust(widths[0]), *numbers]).rstrip())


def _save(settings: Settings, **result: Any) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {
        "question": settings.question,
        "machine": describe_machine(),
        "threads": settings.threads,
        "cores": settings.cores,
        "repetitions_each": settings.repetitions,
        "epochs": settings.epochs or None,
    }
    (RESULTS / f"{settings.name}.json").write_text(json.dumps(content | result, indent=1) + "\n", encoding="utf-8")
