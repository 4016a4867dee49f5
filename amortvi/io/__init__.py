"""Input and output: saved runs, checkpoints, and export to ArviZ."""

from amortvi.io.arviz_layout import DimensionNames
from amortvi.io.checkpoints import Checkpoints, load_run
from amortvi.io.export import ExportOptions, to_arviz
from amortvi.io.saved_run import RunState, SavedRun, save_run

__all__ = [
    "Checkpoints",
    "DimensionNames",
    "ExportOptions",
    "RunState",
    "SavedRun",
    "load_run",
    "save_run",
    "to_arviz",
]
