"""One batch of observations: the arguments that model and encoder are called with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from amortvi.errors import DataError

__all__ = ["Batch"]


@dataclass(frozen=True)
class Batch:
    """The positional and keyword arguments of one call, each a tensor with the observations first.

    Args:
        args: positional tensors, each ``(B, ...)``.
        kwargs: keyword tensors, each ``(B, ...)``.
        parameters: those of the posterior of each observation, ``(B, P)``, where they were found one by one; no argument of
            the call, but they go wherever the observations go.
    """

    args: tuple[Tensor, ...] = ()
    kwargs: Mapping[str, Tensor] = field(default_factory=dict)
    parameters: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[Batch]) -> Batch:
        """Put batches with the same arguments one after the other."""
        first = parts[0]
        found = [part.parameters for part in parts if part.parameters is not None]
        return cls(
            tuple(torch.cat([part.args[i] for part in parts]) for i in range(len(first.args))),
            {key: torch.cat([part.kwargs[key] for part in parts]) for key in first.kwargs},
            torch.cat(found) if found else None,
        )

    @property
    def size(self) -> int:
        """``B``, the number of observations."""
        return next(iter(self.tensors())).shape[0]

    def tensors(self) -> Iterator[Tensor]:
        """Every tensor, positional ones first."""
        yield from self.args
        yield from self.kwargs.values()

    def named(self, name: str = "x") -> Iterator[tuple[str, Tensor]]:
        """Every tensor with the expression that names it to the user: ``x``, ``x[1]`` or ``x['counts']``."""
        if len(self.args) == 1 and not self.kwargs:
            yield name, self.args[0]
            return
        for position, value in enumerate(self.args):
            yield f"{name}[{position}]", value
        for key, value in self.kwargs.items():
            yield f"{name}[{key!r}]", value

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with ``change`` applied to every tensor."""
        return Batch(
            tuple(map(change, self.args)),
            {key: change(value) for key, value in self.kwargs.items()},
            None if self.parameters is None else change(self.parameters),
        )

    def take(self, rows: Tensor | slice) -> Batch:
        """Return the given observations."""
        if isinstance(rows, slice):
            return self.map(lambda value: value[rows])
        return self.map(lambda value: value.index_select(0, rows.to(value.device)))

    def repeat(self, times: int) -> Batch:
        """Return all the observations ``times`` times over, in order: ``(times * B, ...)``."""
        if times == 1:
            return self
        return self.map(lambda value: value.repeat(times, *(1,) * (value.dim() - 1)))

    def arguments(self) -> Batch:
        """Return what the model is called with, without the parameters of the posteriors."""
        return Batch(self.args, self.kwargs)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        return self.map(lambda value: value.to(device, non_blocking=True))

    def describe(self, name: str = "x") -> str:
        """Say the shapes, for messages."""
        return ", ".join(
            f"{label} of shape {tuple(value.shape)} and {value.dtype}" for label, value in self.named(name)
        )

    def hint(self, name: str = "x") -> str:
        """Say what to do where a call fails because of how many arguments it gets."""
        if len(self.args) < 2:
            return ""
        return (
            f" (It was called with {len(self.args)} arguments, since {name} holds {len(self.args)}; leave out what it does "
            f"not take, such as labels.)"
        )

    def check_alike(self, other: Batch, name: str, expected: str) -> None:
        """Raise `DataError` unless ``other`` has the same arguments, apart from the number of observations.

        Args:
            other: the batch to look at.
            name: what the user calls ``other``.
            expected: what the user calls this batch.
        """
        if len(self.args) != len(other.args) or set(self.kwargs) != set(other.kwargs):
            raise DataError(
                f"{name} must hold the same arguments as {expected} ({self.describe(expected)}); "
                f"got {other.describe(name)}."
            )
        theirs = dict(zip((*range(len(other.args)), *other.kwargs), other.named(name), strict=True))
        mine = dict(zip((*range(len(self.args)), *self.kwargs), self.named(expected), strict=True))
        for key, (label, value) in mine.items():
            other_label, other_value = theirs[key]
            if value.shape[1:] != other_value.shape[1:]:
                raise DataError(
                    f"{other_label} must have observations of shape {tuple(value.shape[1:])}, as {label} has; "
                    f"got {tuple(other_value.shape[1:])}."
                )
            if value.is_floating_point() != other_value.is_floating_point():
                raise DataError(
                    f"{other_label} must hold {value.dtype}, as {label} does; got {other_value.dtype}: convert it with "
                    f"{other_label}.to({value.dtype})."
                )
