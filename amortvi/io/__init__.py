"""Input and output: saved runs, and export to ArviZ."""

from amortvi.io.checkpoint import RunState, load_run, save_run
from amortvi.io.export import ExportOptions, to_arviz

__all__ = ["ExportOptions", "RunState", "load_run", "save_run", "to_arviz"]
