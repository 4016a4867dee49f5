"""Jobs for the workers of a `concurrent.futures.Executor`, whose results equal those of a loop bit for bit.

A job is a function of a module, called with named arguments that travel as bytes. They are serialized here, not by the executor,
so that models and functions that are defined in a notebook or inside a function reach processes of every kind.
"""

from amortvi._util.executors.jobs import Jobs, check_executor, run_jobs
from amortvi._util.executors.worker import Outcome, request_stop, stop_requested

__all__ = ["Jobs", "Outcome", "check_executor", "request_stop", "run_jobs", "stop_requested"]
