"""Run all questions, each in a fresh process, and end with one table of targets and results.

Options are passed on to the questions: ``python -m benchmarks.run --repetitions 3``. Names select questions: ``python
-m benchmarks.run step_small families``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

from benchmarks.harness import RESULTS, ROOT

QUESTIONS = (
    "step_small",
    "step_large",
    "families",
    "richer_families",
    "chain",
    "particles",
    "fit_overhead",
    "checkpoints",
    "executors",
    "distributed",
    "import_time",
    "time_to_result",
    "refinement",
    "k_hat",
    "annealing",
    "gpu",
)


def main() -> None:
    """Run the questions; if one fails, the others still run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="question", help=f"some of: {', '.join(QUESTIONS)}")
    arguments, options = parser.parse_known_args()
    if unknown := set(arguments.names) - set(QUESTIONS):
        parser.error(f"unknown question: {', '.join(sorted(unknown))}; choose from {', '.join(QUESTIONS)}")
    chosen = [name for name in QUESTIONS if not arguments.names or name in arguments.names]
    failed = [name for name in chosen if not _run(name, options)]
    _summarize([name for name in chosen if name not in failed])
    for name in failed:
        print(f"FAILED {name}: see its output above")
    sys.exit(1 if failed else 0)


def _run(name: str, options: list[str]) -> bool:
    """Run one question and return whether it succeeded."""
    print(f"\n=== {name}", flush=True)
    (RESULTS / f"{name}.json").unlink(missing_ok=True)  # an old result must not stand for this run
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *options], cwd=ROOT, check=False).returncode == 0


def _summarize(names: list[str]) -> None:
    print("\n=== summary\n")
    for name in names:
        result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for ratio in result["ratios"]:
            if ratio["target"]:
                compared = f"{name}: {ratio['ratio']}"
                print(f"{compared:110} {ratio['measured']:>7.2f}  {ratio['target']:13} {ratio['verdict']}")
        for warning in result["warnings"]:
            print(f"{name}: {warning}")
        for skipped, reason in result["skipped"].items():
            print(f"SKIPPED {name if skipped == name else f'{name}: {skipped}'}: {reason}")


if __name__ == "__main__":
    main()
