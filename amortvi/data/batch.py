"""Batches of observations: the arguments of the model and the encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

import torch
from torch import Tensor

from amortvi._util.random import Share
from amortvi.errors import DataError

__all__ = ["Batch", "Minibatch"]


@dataclass(frozen=True)
class Batch:
    """The positional and keyword arguments of one call, each a tensor with observations in its first dimension.

    Args:
        args: positional tensors, each ``(B, ...)``.
        kwargs: keyword tensors, each ``(B, ...)``.
        context: the context of each observation, ``(B, C)``, if it was optimized instead of computed by an encoder. It is
            not an argument of the call, but is selected, repeated and moved together with the arguments.
    """

    args: tuple[Tensor, ...] = ()
    kwargs: Mapping[str, Tensor] = field(default_factory=dict)
    context: Tensor | None = None

    @classmethod
    def concatenate(cls, parts: Sequence[Batch]) -> Batch:
        """Concatenate batches with the same arguments.

        Raises:
            DataError: the arguments differ in number, name or shape.
        """
        first = parts[0]
        for position, part in enumerate(parts[1:], start=1):
            first.check_compatible(part, f"batch {position}", "batch 0")
        contexts = [part.context for part in parts if part.context is not None]
        return cls(
            tuple(torch.cat([part.args[i] for part in parts]) for i in range(len(first.args))),
            {key: torch.cat([part.kwargs[key] for part in parts]) for key in first.kwargs},
            torch.cat(contexts) if contexts else None,
        )

    @property
    def size(self) -> int:
        """``B``, the number of observations."""
        return next(iter(self.tensors())).shape[0]

    @property
    def device(self) -> torch.device:
        """The device of the arguments."""
        return next(iter(self.tensors())).device

    def tensors(self) -> Iterator[Tensor]:
        """Iterate over the arguments, positional ones first."""
        yield from self.args
        yield from self.kwargs.values()

    def named(self, name: str = "x") -> Iterator[tuple[str, Tensor]]:
        """Iterate over the arguments with the expression that a user would write: ``x``, ``x[1]`` or ``x['counts']``."""
        if len(self.args) == 1 and not self.kwargs:
            yield name, self.args[0]
            return
        for position, value in enumerate(self.args):
            yield f"{name}[{position}]", value
        for key, value in self.kwargs.items():
            yield f"{name}[{key!r}]", value

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with ``change`` applied to every tensor, the context included."""
        return Batch(
            tuple(map(change, self.args)),
            {key: change(value) for key, value in self.kwargs.items()},
            None if self.context is None else change(self.context),
        )

    def take(self, rows: Tensor | slice) -> Batch:
        """Return the observations at ``rows``."""
        if isinstance(rows, slice):
            return self.map(lambda value: value[rows])
        return self.map(lambda value: value.index_select(0, rows.to(value.device)))

    def repeat(self, times: int) -> Batch:
        """Return ``times`` copies of all observations, one copy after the other: ``(times * B, ...)``."""
        if times == 1:
            return self
        return self.map(lambda value: value.repeat(times, *(1,) * (value.dim() - 1)))

    def arguments(self) -> Batch:
        """Return the arguments alone, without the context."""
        return Batch(self.args, self.kwargs)

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        return self.map(lambda value: value.to(device, non_blocking=True))

    def describe(self, name: str = "x") -> str:
        """Return the shapes and types of the arguments, for messages."""
        parts = (f"{label} of shape {tuple(value.shape)} and {value.dtype}" for label, value in self.named(name))
        return ", ".join(parts)

    def hint(self, name: str = "x") -> str:
        """Return the end of a message about a call that may have failed because of the number of its arguments."""
        if len(self.args) < 2:
            return ""
        return (
            f" (It was called with {len(self.args)} arguments, because {name} holds {len(self.args)}; leave out those it does "
            f"not take, such as labels.)"
        )

    def in_order(self, keywords: Sequence[str]) -> Batch:
        """Return the batch with its keyword arguments in the order of ``keywords``, if these are their names."""
        if list(self.kwargs) == list(keywords) or set(self.kwargs) != set(keywords):
            return self
        return replace(self, kwargs={name: self.kwargs[name] for name in keywords})

    def fingerprint(self) -> str:
        """Return a hash of the names, types, shapes and values of the arguments."""
        found = sha256()
        for label, value in sorted(self.named()):
            found.update(f"{label} {value.dtype} {tuple(value.shape)}\n".encode())
            found.update(value.detach().cpu().resolve_neg().contiguous().flatten().view(torch.uint8).numpy().data)
        return found.hexdigest()[:32]

    def check_same_arguments(self, other: Batch, name: str, expected: str) -> None:
        """Raise `DataError` unless ``other`` has as many positional arguments and the same keyword arguments.

        In messages, ``other`` is called ``name``, and this batch ``expected``.
        """
        if len(self.args) != len(other.args) or set(self.kwargs) != set(other.kwargs):
            raise DataError(
                f"{name} must hold the same arguments as {expected} ({self.describe(expected)}); "
                f"got {other.describe(name)}."
            )

    def check_compatible(self, other: Batch, name: str, expected: str) -> None:
        """Raise `DataError` unless ``other`` has the same arguments, apart from the number of observations.

        In messages, ``other`` is called ``name``, and this batch ``expected``.
        """
        self.check_same_arguments(other, name, expected)
        ordered = Batch(other.args, {key: other.kwargs[key] for key in self.kwargs})
        for (label, value), (other_label, other_value) in zip(self.named(expected), ordered.named(name), strict=True):
            if value.shape[1:] != other_value.shape[1:]:
                raise DataError(
                    f"{other_label} must have observations of shape {tuple(value.shape[1:])}, like {label}; "
                    f"got {tuple(other_value.shape[1:])}."
                )
            if value.is_floating_point() != other_value.is_floating_point():
                raise DataError(
                    f"{other_label} must hold {value.dtype}, like {label}; got {other_value.dtype}: convert it with "
                    f"{other_label}.to({value.dtype})."
                )


@dataclass(frozen=True)
class Minibatch:
    """The observations of ``source`` at the positions ``rows``, ``(B,)``, or all of them, not yet gathered.

    Args:
        source: the observations.
        rows: the positions of those that make up the minibatch; if ``None``, all that this process has of it.
        share: the part of the minibatch that this process has, if there are several.
    """

    source: Batch
    rows: Tensor | None = None
    share: Share | None = None

    @property
    def size(self) -> int:
        """``B``, the number of observations."""
        if self.share is not None:
            return self.share.size
        return self.source.size if self.rows is None else self.rows.shape[0]

    def gather(self) -> Batch:
        """Return the observations as a batch, in a fit of several processes those of this one."""
        if self.rows is None:
            return self.source
        return self.source.take(self.rows if self.share is None else self.rows[self.share.rows])

    def to(self, device: torch.device) -> Minibatch:
        """Return the minibatch on ``device``; a source on another device is gathered first."""
        if self.source.device != device:
            return Minibatch(self.gather().to(device), share=self.share)
        if self.rows is None or self.rows.device == device:
            return self
        return replace(self, rows=self.rows.to(device))

    def tensors(self) -> list[Tensor]:
        """Return the tensors that make up the minibatch, the rows last."""
        return [*self.source.tensors()] if self.rows is None else [*self.source.tensors(), self.rows]

    @property
    def num_shared(self) -> int:
        """The number of leading elements of `tensors` that all minibatches of the same source share."""
        return 0 if self.rows is None else len([*self.source.tensors()])

    def replace(self, tensors: list[Tensor]) -> Minibatch:
        """Return a minibatch of the same structure with other ``tensors``."""
        given = iter(tensors)
        source = self.source.map(lambda _: next(given))
        return Minibatch(source, None if self.rows is None else next(given))

    def bootstrap(self) -> Minibatch:
        """Return as many observations, drawn from these with replacement."""
        chosen = torch.randint(self.size, (self.size,), device=self.source.device)
        if self.rows is None:
            return Minibatch(self.source.take(chosen))
        return Minibatch(self.source, self.rows.index_select(0, chosen))
