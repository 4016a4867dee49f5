"""Runs every question, each in a fresh process, and ends with one table of what was asked and what was measured.

Options are handed on to the questions: ``python -m benchmarks.run --repetitions 3``. Names choose among them:
``python -m benchmarks.run step_small families``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from benchmarks.processes import ROOT
from benchmarks.report import FOLDER, verdict

QUESTIONS = (
    "step_small",
    "step_large",
    "families",
    "particles",
    "fit_overhead",
    "import_time",
    "compile_time",
    "refinement",
    "k_hat",
    "annealing",
    "gpu",
)


def main() -> None:
    """Run the questions; one that fails does not keep the others from running."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="question", help=f"some of: {', '.join(QUESTIONS)}")
    given, options = parser.parse_known_args()
    if unknown := set(given.names) - set(QUESTIONS):
        parser.error(f"there is no question {', '.join(sorted(unknown))}; there are {', '.join(QUESTIONS)}")
    asked = [name for name in QUESTIONS if not given.names or name in given.names]
    failed = [name for name in asked if not _ask(name, options)]
    _summarise([name for name in asked if name not in failed])
    for name in failed:
        print(f"FAILED {name}: see its output above")
    sys.exit(1 if failed else 0)


def _ask(name: str, options: list[str]) -> bool:
    """Run one question and say whether it ran to its end."""
    print(f"\n=== {name}", flush=True)
    (FOLDER / f"{name}.json").unlink(missing_ok=True)  # what was measured another time is not to be taken for this one
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], cwd=ROOT, check=False).returncode == 0


def _summarise(names: list[str]) -> None:
    print("\n=== all that was asked for\n")
    for name in names:
        result = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        for ratio in result["ratios"]:
            if ratio["asked"]:
                compared, measured = f"{name}: {ratio['ratio']}", f"{ratio['measured']:.2f}"
                print(
                    f"{compared:80} {measured:>7}  {ratio['asked']:13} {verdict(ratio['asked'], ratio['met'])}".rstrip()
                )
        for warning in result["warnings"]:
            print(f"{name}: {warning}")
        for who, why in result["skipped"].items():
            print(f"SKIPPED {name if who == name else f'{name}: {who}'}: {why}")


if __name__ == "__main__":
    main()
