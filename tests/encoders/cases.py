"""The encoders of sets and sequences, with small networks."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import amortvi as avi
from amortvi.encoders import DeepSets, Recurrent, SetAttention

# Smooth activations: units of small networks that are zero everywhere could hide an effect.
_pooled, _attended = partial(DeepSets, activation=torch.nn.Tanh), partial(SetAttention, activation=torch.nn.Tanh)
SETS: dict[str, Callable[..., torch.nn.Module]] = {
    "mean": partial(_pooled, hidden=[8], after_pooling=[6]),
    "sum": partial(_pooled, hidden=[8, 8], after_pooling=[6], pooling="sum"),
    "max": partial(_pooled, hidden=[8], after_pooling=[6], pooling="max"),
    "nothing after pooling": partial(_pooled, hidden=[5], after_pooling=[]),
    "attention": partial(_attended, hidden=[8], heads=2, after_pooling=[6]),
    "one head": partial(_attended, hidden=[5, 5], heads=1, after_pooling=[6, 6]),
}
SEQUENCES: dict[str, Callable[..., torch.nn.Module]] = {
    "both directions": partial(Recurrent, hidden=[3]),
    "one direction": partial(Recurrent, hidden=[6], bidirectional=False),
    "two layers": partial(Recurrent, hidden=[4, 3]),
}
ROW_ENCODERS = SETS | SEQUENCES


def made(name: str, *arguments: int, **options: int) -> torch.nn.Module:
    """Return an encoder in double precision, in which rounding errors are 1e-15."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ROW_ENCODERS[name](*arguments, **options).double()


def ragged(features: int = 2) -> list[Tensor]:
    """Return observations of one to five rows."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(rows, features, generator=generator, dtype=torch.float64) for rows in (3, 1, 5, 2)]


def padded(length: int | None = None, features: int = 2) -> avi.Padded:
    return avi.pad(ragged(features), length=length)
