"""What every benchmark uses: the command line, interleaved timing, and the report of targets and results."""

from benchmarks.harness.report import RESULTS, Ratio, report, report_skipped
from benchmarks.harness.settings import Settings, start
from benchmarks.harness.timing import ROOT, Competitor, Times, interleave, measure, printed_numbers, timer

__all__ = [
    "RESULTS",
    "ROOT",
    "Competitor",
    "Ratio",
    "Settings",
    "Times",
    "interleave",
    "measure",
    "printed_numbers",
    "report",
    "report_skipped",
    "start",
    "timer",
]
