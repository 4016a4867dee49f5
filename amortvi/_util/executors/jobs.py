"""Submitting jobs, waiting for them, and ending them early."""

from __future__ import annotations

import contextlib
import os
import tempfile
import uuid
import warnings
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from amortvi._util.executors.packing import packed_arguments, unpacked
from amortvi._util.executors.worker import Caller, Outcome, work
from amortvi._util.progress import progress_bar
from amortvi.errors import AmortviWarning, OptionError, quoted

__all__ = ["Jobs", "check_executor", "run_jobs"]

Key = TypeVar("Key", bound=Hashable)

_PATIENCE = 30.0
"""Seconds after Ctrl-C in which jobs that are running can return what they have."""


@dataclass(frozen=True)
class Jobs(Generic[Key]):
    """Jobs that have ended.

    Args:
        outcomes: how each ended, in the order of the jobs, without those that were cancelled or abandoned.
        is_interrupted: whether Ctrl-C was pressed, or a value ended the other jobs.
    """

    outcomes: dict[Key, Outcome] = field(default_factory=dict)
    is_interrupted: bool = False

    def values(self) -> list[Any]:
        """Return the values of all jobs; raise their first error, or `KeyboardInterrupt` after Ctrl-C."""
        if self.is_interrupted:
            raise KeyboardInterrupt
        return [outcome.get() for outcome in self.outcomes.values()]


def check_executor(executor: object) -> Executor | None:
    """Return ``executor`` if it is one, or ``None``; raise `OptionError` otherwise."""
    if executor is None or isinstance(executor, Executor):
        return executor
    hint = " Pass client.get_executor()." if hasattr(executor, "get_executor") else ""
    raise OptionError(f"executor must be a concurrent.futures.Executor or None; got {executor!r}.{hint}")


def run_jobs(
    executor: Executor,
    function: Callable[..., Any],
    shared: Mapping[str, Any],
    jobs: Mapping[Key, Mapping[str, Any]],
    *,
    ends_all: Callable[[Any], bool] = lambda value: False,
    unit: str = "job",
    progress: bool | None = False,
) -> Jobs[Key]:
    """Run jobs in the workers of an executor, and wait for them.

    Each worker computes with as many threads as this process, and with its other numerical settings. Ctrl-C cancels the jobs
    that have not begun; those that run on this computer see that a stop is requested, and are waited for, up to half a minute.

    Args:
        executor: runs the jobs.
        function: a function of a module, called with keyword arguments.
        shared: the arguments of all jobs.
        jobs: the further arguments of each job.
        ends_all: whether a value ends the other jobs, as Ctrl-C does.
        unit: what the progress bar calls a job.
        progress: whether to show one; see `progress_bar`.

    Raises:
        OptionError: an argument cannot be serialized, or the executor accepts no work.
    """
    _warn_of_threads(executor, len(jobs))
    common, own = packed_arguments(shared), {key: packed_arguments(each) for key, each in jobs.items()}
    caller = Caller.here(Path(tempfile.gettempdir()) / f"amortvi-stop-{uuid.uuid4().hex}")
    futures: dict[Future[bytes], Key] = {}
    outcomes: dict[Key, Outcome] = {}
    is_interrupted = False
    try:
        for key, arguments in own.items():
            try:
                futures[executor.submit(work, function, common, arguments, caller)] = key
            except RuntimeError as error:  # shut down, or broken by an earlier job
                if not futures:
                    raise OptionError(f"executor accepts no work: {quoted(error)}. Pass one that is open.") from error
                outcomes[key] = Outcome(error=error)
        with progress_bar(progress, total=len(futures), unit=unit) as bar:
            for future in as_completed(futures):
                outcomes[futures[future]] = outcome = _outcome(future)
                bar.update()
                if isinstance(outcome.error, KeyboardInterrupt) or ends_all(outcome.value):
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        is_interrupted = True
        _end(futures, caller.stop_file)
        unread = {future: key for future, key in futures.items() if key not in outcomes and not _is_lost(future)}
        outcomes |= {key: _outcome(future) for future, key in unread.items()}
    finally:
        for future in futures:
            future.cancel()
    ended = [key for key in jobs if key in outcomes and not isinstance(outcomes[key].error, KeyboardInterrupt)]
    return Jobs({key: outcomes[key] for key in ended}, is_interrupted)


def _outcome(future: Future[bytes]) -> Outcome:
    """Return how a job ended; an error of the executor itself means that the job was lost."""
    try:
        found = unpacked(future.result())
    except Exception as error:  # an executor, and an object that is deserialized, can raise anything
        return Outcome(error=error)
    assert isinstance(found, Outcome)
    return found


def _is_lost(future: Future[bytes]) -> bool:
    return not future.done() or future.cancelled() or future.exception() is not None


def _end(futures: Mapping[Future[bytes], Any], stop_file: Path) -> None:
    """Cancel jobs that have not begun, ask those that run to end, and wait for them."""
    left = {future for future in futures if not future.cancel() and not future.done()}
    with contextlib.suppress(OSError, KeyboardInterrupt):  # who presses Ctrl-C again does not want to wait
        stop_file.touch()
        left = wait(left, _PATIENCE).not_done
    if not left:
        stop_file.unlink(missing_ok=True)


def _warn_of_threads(executor: Executor, jobs: int) -> None:
    """Warn if the processes of an executor, where their number is known, have more threads than there are cores."""
    workers, threads = getattr(executor, "_max_workers", None), torch.get_num_threads()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(executor, ThreadPoolExecutor) or not isinstance(workers, int):
        return
    busy = min(workers, jobs)
    if threads > 1 and busy * threads > cores:
        warnings.warn(
            f"{busy} workers with {threads} threads each compete for {cores} cores, which can take ten times as long: call "
            f"torch.set_num_threads({max(1, cores // busy)}) before.",
            AmortviWarning,
            stacklevel=4,
        )
