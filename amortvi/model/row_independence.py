"""Whether the result for a row of a batch depends on the other rows, which no posterior of a single observation allows.

The other rows are replaced: by copies of the row itself in a batch of the same size, and once in a smaller batch. In a batch of
the same size, a row passes through the same operations in the same order, so its result may change only by a few units of
rounding, whatever the precision of the hardware. Between positions and sizes, results may differ by more than that, so only
large differences count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from amortvi._util.random import random_state
from amortvi.data import Batch
from amortvi.errors import AmortviError, ModelError
from amortvi.model.model import Model

__all__ = ["HOW_TO_SEPARATE_ROWS", "MixedRow", "check_row_independence", "find_mixed_row", "some_rows"]

HOW_TO_SEPARATE_ROWS = (
    "Compute each row from that row alone: reduce over the dimensions after the first, use batch_first=True, let batch "
    "normalization use its running statistics in evaluation mode, and compute statistics of the data set once, before the fit."
)

_ROWS = 16
"""The number of rows of the example that are used."""

_UNITS = 1000
"""The units of rounding, relative to the largest element, by which a result may change in a batch of the same size."""

_LARGE = 0.03
"""The relative difference by which a result may change in a batch of another size, or at another position."""

_SEED, _OTHER_SEEDS = 0, (1, 2, 3)
"""The seed of all results, and those with which they are computed again to find out whether they are random."""


@dataclass(frozen=True)
class MixedRow:
    """A result that depends on the other rows of its batch.

    Args:
        name: the name of the result.
        row: the position of the observation.
        size: the number of rows in its batch.
        within: the element of the result that differs most, within that batch.
        alone: the same element, with copies of the row in place of the other rows.
    """

    name: str
    row: int
    size: int
    within: float
    alone: float

    def __str__(self) -> str:
        within = f"{self.within:.6g} for observation {self.row} in a batch of {self.size}"
        return f"{within}, and {self.alone:.6g} without the other rows"


def some_rows(observations: int) -> Tensor:
    """Return the positions of a few evenly spaced rows, the first and the last among them."""
    return torch.linspace(0, observations - 1, min(observations, _ROWS), dtype=torch.float64).round().long()


def find_mixed_row(
    compute: Callable[[Tensor], Mapping[str, Tensor]],
    rows: Tensor,
    device: torch.device | None = None,
    *,
    whole: Mapping[str, Tensor] | None = None,
) -> MixedRow | None:
    """Return the first result that depends on the other rows of the batch, or ``None``.

    Batches of the same size are compared with the same random numbers; between batches of different sizes, random results are
    not judged. Nor is what can be computed only for a batch of a certain size.

    Args:
        compute: called with the positions of ``B`` rows, some of them repeated; returns the results for these rows by name,
            each ``(B, ...)``, or a scalar if it is one for the batch.
        rows: the positions of the rows to compare.
        device: the device of the random numbers.
        whole: the results for ``rows``, if they are known already; random ones are then not judged.

    Example:
        >>> x = torch.randn(100, 3)
        >>> find_mixed_row(lambda rows: {"sum": x[rows].sum(1)}, some_rows(100)) is None
        True
        >>> find_mixed_row(lambda rows: {"centered": x[rows] - x[rows].mean(0)}, some_rows(100)).name
        'centered'
    """
    count = len(rows)
    if count < 2:
        return None
    last, first = rows[-1:].expand(count), rows[:1].expand(2)

    def run(chosen: Tensor, seed: int = _SEED) -> Mapping[str, Tensor]:
        with random_state(seed, device):
            return compute(chosen)

    def is_random(name: str, seeds: Sequence[int]) -> bool:
        repeated = (_relative_difference(run(last, seed)[name], copies[name].unsqueeze(0)) for seed in seeds)
        return any(bool(each.max() > _rounding(copies[name])) for each in repeated)

    try:
        within, copies, pair = whole or run(rows), run(last), run(first)
    except AmortviError:
        return None  # it accepts batches of one size only, which is reported when it receives another
    for name, result in within.items():
        for case in _comparisons(result, copies[name], pair[name]):
            difference = _relative_difference(case.within, case.alone)
            same_noise = case.same_size and whole is None
            if difference.max() > case.tolerance and not is_random(name, [_SEED] if same_noise else _OTHER_SEEDS):
                copy, element = divmod(int(difference.argmax()), case.within.numel())
                one, other = case.within.flatten()[element], case.alone[copy].flatten()[element]
                return MixedRow(name, int(rows[case.position]), count, float(one), float(other))
    return None


@dataclass(frozen=True)
class _Comparison:
    """A result within the batch and without the other rows.

    Args:
        position: the row.
        within: the result within the batch, shape ``S``.
        alone: the results without the other rows, ``(n, *S)``.
        tolerance: the relative difference that is allowed.
        same_size: whether they are at the same position of batches of the same size.
    """

    position: int
    within: Tensor
    alone: Tensor
    tolerance: float
    same_size: bool


def _comparisons(within: Tensor, copies: Tensor, pair: Tensor) -> Iterator[_Comparison]:
    """Iterate over the comparisons of a result within the batch with that of copies of its last and its first row."""
    if within.dim() == 0:
        yield _Comparison(-1, within, copies.unsqueeze(0), _rounding(within), True)
        return
    yield _Comparison(-1, within[-1], copies[-1:], _rounding(within), True)
    yield _Comparison(-1, within[-1], copies, _LARGE, False)
    yield _Comparison(0, within[0], pair, _LARGE, False)


def _rounding(result: Tensor) -> float:
    return min(_UNITS * torch.finfo(result.dtype).eps, _LARGE)


def _relative_difference(one: Tensor, others: Tensor) -> Tensor:
    """Return the difference between ``one`` and each of ``others``, relative to their largest finite element.

    Args:
        one: shape ``S``.
        others: shape ``(n, *S)``.

    Returns:
        ``(n, number of elements)``; infinite where only one is finite.
    """
    expected, found = one.reshape(1, -1), others.reshape(len(others), -1)
    same = (expected == found) | (expected.isnan() & found.isnan())
    scale = torch.maximum(_largest(expected), _largest(found))
    return torch.where(same, 0.0, (expected - found).abs() / scale).nan_to_num(nan=math.inf, posinf=math.inf)


def _largest(values: Tensor) -> Tensor:
    return values.abs().nan_to_num(nan=0.0, posinf=0.0).amax(dim=1, keepdim=True)


def check_row_independence(model: Model, example: Batch) -> None:
    """Raise `ModelError` if the log-probability of a row, given its latents, depends on the other rows of the batch.

    Args:
        model: the generative model, set up.
        example: some observations.
    """
    plate, rows, shared = model.structure.plate, some_rows(example.size), set[str]()
    with model.inference_mode():
        with random_state(_SEED, example.device):
            drawn = {site.name: site.by_observation(site.value, plate, example.size) for site in model.run(example)}
        latents = {name: value for name, value in drawn.items() if name in model.latents.names and value is not None}

        def compute(chosen: Tensor) -> dict[str, Tensor]:
            values = {name: value[chosen.to(example.device)].unsqueeze(0) for name, value in latents.items()}
            scores = model.log_probs(example.take(chosen), values)
            found = {name: value[0] for name, value in scores.local.items()}
            for site in scores.sites:
                if site.frame(plate) is None:
                    shared.add(site.name)
                    found[site.name] = site.log_prob(plate).sum()
            return found

        mixed = find_mixed_row(compute, rows, example.device)
    if mixed is None:
        return
    if mixed.name in shared:
        raise ModelError(
            f"site {mixed.name!r} is outside plate {plate!r}, but its log-probability depends on the rows of the batch: a term "
            f"outside the plate belongs to the whole data set. Move it inside 'with pyro.plate({plate!r}, ...):', with one "
            f"value for each row."
        )
    raise ModelError(
        f"the model mixes the rows of a batch: given the same latents, the log-probability of site {mixed.name!r} is {mixed}. "
        f"The posterior of an observation would depend on the batch in which it is computed. {HOW_TO_SEPARATE_ROWS}"
    )
