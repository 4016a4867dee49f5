"""What happens in a worker: one job, with the numerical settings of the process that has submitted it."""

from __future__ import annotations

import contextlib
import os
import platform
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pyro
import torch

from amortvi._util.executors.packing import packed, unpacked
from amortvi._util.lock import exclusive
from amortvi.errors import AmortviError, OptionError, quoted

__all__ = ["Caller", "Outcome", "request_stop", "stop_requested", "work"]

_IMPORTED = uuid.uuid4().hex
"""Differs between processes, except between those that were forked from one another."""
_SPAWN = "ProcessPoolExecutor(mp_context=multiprocessing.get_context('spawn'))"
_NUMERICS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    (pyro.settings.get, lambda values: pyro.settings.set(**_known(values))),
)
"""What results depend on besides arguments and seeds, if only in their last digits: how to read it, and how to set it."""
_stop_file: ContextVar[Path | None] = ContextVar("stop_file", default=None)


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a value, or with an error.

    Args:
        value: what the function returned.
        error: what it raised, or why the job was lost.
        warned: the warnings that it issued: message, category, file and line.
    """

    value: Any = None
    error: BaseException | None = None
    warned: tuple[tuple[Any, type[Warning], str, int], ...] = ()

    def get(self) -> Any:
        """Issue the warnings of the job in this process, and return its value or raise its error."""
        for warning in self.warned:
            warnings.warn_explicit(*warning)
        if self.error is not None:
            raise self.error
        return self.value


@dataclass(frozen=True)
class Caller:
    """What a worker has to know of the process that submits a job.

    Args:
        stop_file: exists if the job shall end.
        host: the computer.
        process: the number of the process.
        imported: identifies the import of this module.
        uses_cuda: whether the process has used CUDA.
        numerics: its numerical settings.
    """

    stop_file: Path
    host: str
    process: int
    imported: str
    uses_cuda: bool
    numerics: tuple[Any, ...]

    @classmethod
    def here(cls, stop_file: Path) -> Self:
        """Describe this process."""
        numerics = tuple(read() for read, _ in _NUMERICS)
        return cls(stop_file, platform.node(), os.getpid(), _IMPORTED, torch.cuda.is_initialized(), numerics)

    @property
    def is_this_process(self) -> bool:
        """Whether the worker is a thread of the caller."""
        return (self.host, self.process, self.imported) == (platform.node(), os.getpid(), _IMPORTED)

    @property
    def was_forked(self) -> bool:
        """Whether the worker is a process that was forked from the caller."""
        return self.imported == _IMPORTED and not self.is_this_process


def stop_requested() -> bool:
    """Return whether the caller asks this job to end. A caller on another computer cannot ask."""
    file = _stop_file.get()
    return file is not None and file.exists()


def request_stop() -> None:
    """Ask the other jobs of the same caller to end, before one of them begins in this worker."""
    file = _stop_file.get()
    if file is not None:
        file.touch()


def work(function: Callable[..., Any], shared: bytes, own: bytes, caller: Caller) -> bytes:
    """Run one job, and return its serialized `Outcome`."""
    token = _stop_file.set(caller.stop_file if caller.host == platform.node() else None)
    warned: list[warnings.WarningMessage] = []
    try:
        with _settings_of(caller, warned):
            if stop_requested():  # Ctrl-C came before the job
                raise KeyboardInterrupt
            outcome = Outcome(function(**unpacked(shared), **unpacked(own)))
    except (Exception, KeyboardInterrupt) as error:  # whatever it is, the caller is told
        outcome = Outcome(error=_explained(error, caller))
    finally:
        _stop_file.reset(token)
    return _packed_outcome(outcome, warned)


@contextlib.contextmanager
def _settings_of(caller: Caller, warned: list[warnings.WarningMessage]) -> Iterator[None]:
    """Compute with the settings of the caller, and record warnings; a thread of the caller's process shares both."""
    if caller.is_this_process:
        yield
        return
    threads = caller.numerics[0]
    if caller.was_forked and threads > 1:
        raise OptionError(
            f"executor has forked workers, in which the {threads} threads of torch may wait for ever: call "
            f"torch.set_num_threads(1) before, or start other processes with {_SPAWN}."
        )
    # A worker of Dask has several threads, but settings and warnings belong to its process.
    with exclusive(), warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        before = [read() for read, _ in _NUMERICS]
        try:
            _apply(caller.numerics)
            yield
        finally:
            _apply(before)
            warned.extend(found)


def _apply(numerics: Any) -> None:
    for (_, write), value in zip(_NUMERICS, numerics, strict=True):
        write(value)


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that Pyro has in this process; modules that are imported later add others."""
    return {name: value for name, value in settings.items() if name in pyro.settings.get()}


def _explained(error: BaseException, caller: Caller) -> BaseException:
    if caller.was_forked and caller.uses_cuda and "forked" in str(error):
        return OptionError(
            f"executor has forked workers, which cannot use CUDA because this process does: start other processes with "
            f"{_SPAWN}. {quoted(error)}"
        )
    if not caller.is_this_process:
        error.add_note("in a worker: " + "".join(traceback.format_exception(error)))
    return error


def _packed_outcome(outcome: Outcome, warned: list[warnings.WarningMessage]) -> bytes:
    found = tuple((each.message, each.category, each.filename, each.lineno) for each in warned)
    try:
        data = packed(Outcome(outcome.value, outcome.error, found))
        if outcome.error is not None or found:
            unpacked(data)  # not every exception that can be serialized can also be read
    except Exception as error:  # an object can raise anything when it is serialized
        reason = outcome.error or error
        return packed(Outcome(error=AmortviError(f"a result cannot be sent back by its worker: {quoted(reason)}")))
    return data
