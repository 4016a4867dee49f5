"""Prints and saves what was measured, with the ratio that was asked for beside the one that was measured."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import Competitor, Times
from benchmarks.machine import describe_machine
from benchmarks.settings import Settings

__all__ = ["FOLDER", "Ratio", "report", "report_skipped", "verdict"]

FOLDER = Path(__file__).resolve().parents[1] / "runs" / "benchmarks"
"""Where results are written, a file a question."""

FEWEST = 3
"""Repetitions from which a ratio is judged: one that was disturbed is then not the median."""

UNSTEADY = 1.5
"""How many times the median the longest repetition may take. Two threads on two cores take ten times as long while another
process has one of the cores, and then every ratio with them is wrong."""


@dataclass(frozen=True)
class Ratio:
    """A comparison: the time of one competitor divided by that of another.

    Args:
        of: the competitor whose time is divided.
        to: the competitor it is divided by.
        at_least: what is asked for, where the ratio is to be large.
        at_most: what is asked for, where it is to be small.
    """

    of: str
    to: str
    at_least: float | None = None
    at_most: float | None = None

    def asked(self) -> str:
        """What was asked for, in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"

    def is_met(self, measured: float) -> bool | None:
        """Say whether ``measured`` is what was asked for, or ``None`` where nothing was."""
        if self.at_least is not None:
            return measured >= self.at_least
        return None if self.at_most is None else measured <= self.at_most


def report(
    settings: Settings,
    times: Times,
    ratios: Sequence[Ratio],
    *,
    unit: str = "ms a step",
    competitors: Mapping[str, Competitor] | None = None,
    skipped: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Print tables of times and ratios, and write them to `FOLDER`.

    Args:
        settings: how it was measured.
        times: for each competitor all repetitions.
        ratios: the comparisons; those with a competitor that was skipped are left out.
        unit: of the times.
        competitors: asked for the ELBO that each came to, where they have one.
        skipped: who did not take part, and why.
        notes: what else the reader must know.

    Raises:
        RuntimeError: a competitor did not train: its ELBO is not finite.
    """
    skipped = skipped or {}
    elbos = {name: each.elbo() for name, each in (competitors or {}).items() if each.elbo is not None}
    if lost := [name for name, elbo in elbos.items() if not math.isfinite(elbo)]:
        raise RuntimeError(f"these came to no finite ELBO, so what they took says nothing: {', '.join(lost)}")
    unsteady = [name for name, all_ in times.items() if max(all_) > UNSTEADY * statistics.median(all_)]
    warnings = []
    if unsteady:
        warnings.append(f"UNSTEADY, measure again on a machine that does nothing else: {', '.join(unsteady)}")
    if settings.repetitions < FEWEST:
        warnings.append(f"fewer than {FEWEST} repetitions: nothing is judged")

    def judge(ratio: Ratio, measured: float) -> bool | None:
        disturbed = {ratio.of, ratio.to} & set(unsteady)
        return None if disturbed or settings.repetitions < FEWEST else ratio.is_met(measured)

    compared = [
        (ratio, *_quotients(times[ratio.of], times[ratio.to])) for ratio in ratios if {ratio.of, ratio.to} <= set(times)
    ]
    _print_head(settings, notes)
    rows = [
        [name, f"{statistics.median(all_):.4g}", f"{min(all_):.4g}", f"{max(all_):.4g}"]
        + ([f"{elbos[name]:.2f}" if name in elbos else ""] if elbos else [])
        for name, all_ in times.items()
    ]
    _print_table([f"median of {settings.repetitions}", unit, "min", "max"] + (["ELBO"] if elbos else []), rows)
    _print_table(
        ["ratio", "measured", "min", "max", "asked", ""],
        [
            [
                f"{ratio.of} / {ratio.to}",
                f"{median:.2f}",
                f"{low:.2f}",
                f"{high:.2f}",
                ratio.asked(),
                verdict(ratio.asked(), judge(ratio, median)),
            ]
            for ratio, median, low, high in compared
        ],
    )
    for warning in warnings:
        print(warning)
    for name, why in skipped.items():
        print(f"SKIPPED {name}: {why}")
    _save(
        settings,
        notes=list(notes),
        unit=unit,
        medians={name: statistics.median(all_) for name, all_ in times.items()},
        repetitions=times,
        elbo=elbos,
        ratios=[
            {
                "ratio": f"{ratio.of} / {ratio.to}",
                "measured": median,
                "min": low,
                "max": high,
                "asked": ratio.asked(),
                "met": judge(ratio, median),
            }
            for ratio, median, low, high in compared
        ],
        warnings=warnings,
        skipped=dict(skipped),
    )


def report_skipped(settings: Settings, why: str) -> None:
    """Say, and write down, that a question could not be asked on this machine."""
    _print_head(settings, ())
    print(f"SKIPPED: {why}")
    _save(settings, ratios=[], warnings=[], skipped={settings.name: why})


def verdict(asked: str, met: bool | None) -> str:
    """What is printed of a ratio beside what was ``asked``; ``met`` is ``None`` where it could not be judged."""
    if not asked:
        return ""
    return "not judged" if met is None else "met" if met else "MISSED"


def _quotients(of: Sequence[float], to: Sequence[float]) -> tuple[float, float, float]:
    """Return the quotient of the medians, and the smallest and largest quotient of one repetition."""
    each = [a / b for a, b in zip(of, to, strict=True)]
    return statistics.median(of) / statistics.median(to), min(each), max(each)


def _print_head(settings: Settings, notes: Sequence[str]) -> None:
    machine = describe_machine()
    versions = ", ".join(f"{name} {machine[name]}" for name in ("python", "torch", "pyro", "numpyro", "jax"))
    print(f"{settings.question}\n")
    print(f"{machine['processor']}, {machine['cores']} cores; {versions}")
    print(f"{settings.threads} threads ({settings.note})" + (f"; {settings.epochs} epochs" if settings.epochs else ""))
    for note in notes:
        print(f"note: {note}")


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    print()
    for row in [head, *rows]:
        cells = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _save(settings: Settings, **result: Any) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    content = {
        "question": settings.question,
        "machine": describe_machine(),
        "threads": settings.threads,
        "cores": settings.note,
        "repetitions_each": settings.repetitions,
        "epochs": settings.epochs or None,
    }
    (FOLDER / f"{settings.name}.json").write_text(json.dumps(content | result, indent=1) + "\n", encoding="utf-8")
