"""The processes that train together, as one of them sees them.

Before each exchange of data, the processes exchange two numbers: where each of them is, and whether it has failed or received a
signal. So an error in one process ends the fit in all of them, and a signal ends it at the same step.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from enum import IntEnum
from types import TracebackType
from typing import Any, Self, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from amortvi._util.signals import HeldSignals
from amortvi.errors import DistributedError, NonFiniteError, OptionError, quoted
from amortvi.training.options import FitOptions

__all__ = ["ALONE", "Group", "Place", "join"]

T = TypeVar("T")

_FAILED = -1
_LAUNCHED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""The environment variables with which torchrun tells each process how to find the others."""


class Place(IntEnum):
    """Where processes exchange data."""

    STATE = 0
    STEP = 1
    VALIDATION = 2
    END = 3


class Group:
    """The processes of a fit; a context that ends all of them if one fails. In a group of one, nothing is exchanged.

    Args:
        rank: the number of this process.
        count: the number of processes.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count
        self.signals = HeldSignals()
        self._has_failed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.agree(Place.END)
        elif self.count > 1:
            with contextlib.suppress(BaseException):  # the error itself
                self.agree(Place.END, error)

    @property
    def is_first(self) -> bool:
        """Whether this process makes the decisions, and is the only one that writes."""
        return self.rank == 0

    def agree(self, place: Place, error: BaseException | None = None) -> None:
        """Wait until all processes are at this place.

        Args:
            place: where this process is.
            error: the error of this process, if it has failed.

        Raises:
            BaseException: ``error``, if it is given.
            NonFiniteError: a process has given it; if several have, that of the first.
            DistributedError: another process has failed, does not answer, or is at another place.
            KeyboardInterrupt: a process has received SIGINT.
            SystemExit: a process has received SIGTERM.
        """
        if self.count > 1 and not self._has_failed:
            with self._answered(error):
                states = self._states(place, error)
                self._has_failed = any(state == _FAILED for _, state in states)
                reports: list[Any] = [None] * self.count
                if self._has_failed:
                    dist.all_gather_object(reports, _report(error))
            if error is None or isinstance(error, NonFiniteError):  # one of those of all processes
                self._raise_problem(states, reports)
        if error is not None:
            raise error

    def _states(self, place: Place, error: BaseException | None) -> list[tuple[int, int]]:
        """Return the place of each process, and its state: failed, the number of a signal, or zero."""
        state = self.signals.received or 0 if error is None else _FAILED
        own = torch.tensor([int(place), state], device=_device())
        found = [torch.empty_like(own) for _ in range(self.count)]
        dist.all_gather(found, own)
        return [(int(place), int(state)) for place, state in (each.tolist() for each in found)]

    def _raise_problem(self, states: Sequence[tuple[int, int]], reports: Sequence[Any]) -> None:
        for rank, report in enumerate(reports):
            if isinstance(report, NonFiniteError):
                raise report
            if report is not None:
                raise DistributedError(f"process {rank} of {self.count} has failed, so this one ends too: {report}")
        if len({place for place, _ in states}) > 1:
            self._has_failed = True
            raise DistributedError(
                f"the {self.count} processes do not take the same steps: a callback may have ended the fit in one of them. Call "
                f"RunningFit.stop instead."
            )
        signal = max(state for _, state in states)
        if signal:
            self.signals.received = signal
            self.signals.obey()

    @contextlib.contextmanager
    def _answered(self, error: BaseException | None = None) -> Iterator[None]:
        """Turn the errors of an exchange into a `DistributedError`, unless this process has failed itself."""
        try:
            yield
        except RuntimeError as failure:
            self._has_failed = True
            if error is None:
                raise DistributedError(
                    f"another process of {self.count} has ended or has not answered within the time limit of the process group: "
                    f"{quoted(failure, lines=2)}"
                ) from failure

    def from_first(self, value: T) -> T:
        """Return the value that the first process has."""
        self.agree(Place.STATE)
        held = [value if self.is_first else None]
        if self.count > 1:
            with self._answered():
                dist.broadcast_object_list(held, src=0)
        return held[0]  # type: ignore[return-value]  # of the first process

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the processes, which have agreed on the place."""
        with self._answered():
            dist.all_reduce(tensor)

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite tensors by those of the first process."""
        self.agree(Place.STATE)
        if self.count == 1 or not tensors:
            return
        parts = [tensor.detach().contiguous().reshape(-1).view(torch.uint8) for tensor in tensors]
        joined = torch.cat(parts)
        with self._answered():
            dist.broadcast(joined, src=0)
        if not self.is_first:
            with torch.no_grad():
                for tensor, part in zip(tensors, joined.split([len(part) for part in parts]), strict=True):
                    tensor.copy_(part.clone().view(tensor.dtype).view(tensor.shape))

    def seeded(self, options: FitOptions) -> FitOptions:
        """Return options with the seed of the first process, which draws one if it has none."""
        if self.count == 1:
            return options
        seed = int(torch.randint(2**62, ())) if options.seed is None else options.seed
        return replace(options, seed=self.from_first(seed))


ALONE = Group()


def join(options: FitOptions) -> Group:
    """Return the processes of a fit: those of the process group of `torch.distributed`, or this one alone.

    Raises:
        OptionError: there is no process group, and torchrun has not started this process.
    """
    if not options.distributed:
        return ALONE
    if not dist.is_available():
        raise OptionError("distributed=True needs a PyTorch that was built with torch.distributed.")
    if not dist.is_initialized():
        missing = [name for name in _LAUNCHED if name not in os.environ]
        if missing:
            raise OptionError(
                f"distributed=True needs several processes, but this one was started alone ({missing[0]} is not set): start the "
                f"script with 'torchrun --nproc-per-node=2 script.py', or call torch.distributed.init_process_group first."
            )
        dist.init_process_group()
    return Group(dist.get_rank(), dist.get_world_size())


def _device() -> torch.device:
    """Return the device through which the process group exchanges numbers."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def _report(error: BaseException | None) -> Any:
    """Return what the other processes are told of an error."""
    if error is None or isinstance(error, NonFiniteError):
        return error
    return quoted(error, lines=3)
