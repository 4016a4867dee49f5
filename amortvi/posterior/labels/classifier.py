r"""The classifier :math:`q(y \mid x)`, with which a missing label is inferred together with the latents of its observation.

.. math::

    q(y, z \mid x) = q(y \mid x)\, q(z \mid x, y).

Where a label is known, its probability is one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from amortvi._util.random import drawn_alike
from amortvi.data import Batch, Observations
from amortvi.errors import ModelError
from amortvi.model import Model
from amortvi.model.discrete import unobserved_part
from amortvi.posterior.labels.choice import Labels
from amortvi.posterior.labels.missing import LabelArgument, integer_labels

__all__ = ["Classifier"]

_EXCLUDED = -1e4
"""The logarithm of the probability of a label that is known not to be true. It is finite, so that zero times it is zero, and its
exponential is zero in every floating-point type."""
_KEPT = 20_000
"""The most labelled observations that are kept in memory for the classification loss."""
_LABELLED = 128
"""The number of them in each step. Of a hundred labels among many observations, a batch would hold one or none."""


class Classifier(nn.Module):
    """``q(y | x)`` of a label in the data, which may be missing.

    Args:
        labels: the user's description of the labels.
    """

    argument: LabelArgument
    site: str
    """The discrete latent site that stands for missing labels in the model."""
    count: int
    """``M``, the number of labels."""

    def __init__(self, labels: Labels) -> None:
        super().__init__()
        self.weight = labels.weight
        self.network = labels.classifier
        self._labelled: Batch | None = None
        self._labels = labels

    def read(self, x: Any, model: Model, example: Batch | None) -> Any:
        """Return the user's observations with integer labels; with missing ones if they have none, but ``example`` does."""
        try:
            whole = integer_labels(self._labels.argument, model.program, x)
        except (TypeError, ValueError):  # no array of numbers, of which the error is that of all data
            return x
        return whole if example is None else self.argument.added(whole, example)

    def find(self, model: Model, example: Batch) -> None:
        """Find the argument that holds the labels; see `LabelArgument.find`."""
        self.argument = LabelArgument.find(self._labels.argument, model.program, example)

    def setup(self, model: Model, example: Batch, features: Tensor) -> None:
        """Create the linear layer, for the labels of a model that is set up and features ``(B, C)`` of the example.

        Raises:
            ModelError: the model has no discrete latent that stands for missing labels.
            DataError: a label is out of range.
        """
        name = self._labels.site or self._labels.argument
        discrete = {site.name: site for site in model.structure.discrete}
        self.site = unobserved_part(name)
        if self.site not in discrete or discrete[self.site].layout.nested or len(discrete[self.site].values) < 2:
            argument = self._labels.argument
            raise ModelError(
                f"labels={argument!r} needs a site of the model that is observed where there is a label: "
                f"{name} = pyro.sample({name!r}, dist.Categorical(...), obs={argument}.clamp(min=0), obs_mask={argument} >= 0) "
                f"directly in plate {model.structure.plate!r}. Its discrete latents are {sorted(discrete)}; another name of the "
                f"site is given with Labels({argument!r}, site=...)."
            )
        self.count = len(discrete[self.site].values)
        self.argument.check(example, self.count)
        self.to_logits = nn.Linear(features.shape[1], self.count).to(features)
        nn.init.zeros_(self.to_logits.weight)  # uniform at first, so that no label is excluded before any has been seen
        nn.init.zeros_(self.to_logits.bias)

    def log_probs(self, features: Tensor) -> Tensor:
        """Return ``log q(y | x)``, ``(B, M)``."""
        return torch.log_softmax(self.to_logits(features), dim=-1)

    def given(self, log_probs: Tensor, batch: Batch) -> Tensor:
        """Return ``log q(y | x)``, ``(B, M)``, with probability one for the labels that are known."""
        known = torch.zeros_like(log_probs).masked_fill(self.excluded(batch), _EXCLUDED)
        return torch.where(self._true(batch).any(-1, keepdim=True), known, log_probs)

    def excluded(self, batch: Batch) -> Tensor:
        """Return which labels are known not to be true, boolean, ``(B, M)``."""
        true = self._true(batch)
        return true.any(-1, keepdim=True) & ~true

    def _true(self, batch: Batch) -> Tensor:
        """Return which labels are known to be true, boolean, ``(B, M)``: none of a row of which the label is missing."""
        labels = self.argument.of(batch).unsqueeze(-1)
        return labels == torch.arange(self.count, device=labels.device)

    def completed(self, batch: Batch) -> Batch:
        """Return the batch with each label in turn, one copy after the other: ``(M * B, ...)``."""
        labels = torch.arange(self.count, device=batch.device).repeat_interleave(batch.size)
        return self.argument.replaced(batch.arguments().repeat(self.count), labels)

    @contextlib.contextmanager
    def trained_on(self, observations: Observations, device: torch.device) -> Iterator[None]:
        """Keep the labelled ones among the training data, as far as they fit, for `labelled`.

        Raises:
            DataError: a label is out of range.
        """
        kept, count = [], 0
        for batch in [observations.as_batch()] if observations.in_memory else observations.batches():
            self.argument.check(batch, self.count)
            if count < _KEPT:
                kept.append(batch.take((self.argument.of(batch) >= 0).nonzero()[:, 0]))
                count += kept[-1].size
        self._labelled = Batch.concatenate(kept).to(device) if count else None
        try:
            yield
        finally:
            self._labelled = None

    def labelled(self) -> Batch | None:
        """Return some labelled training observations: all of them if they are few, otherwise as many at random."""
        known = self._labelled
        if known is None or known.size <= _LABELLED:
            # Batch normalization refuses a single row.
            return known.repeat(2) if known is not None and known.size == 1 else known
        with drawn_alike():
            return known.take(torch.randint(known.size, (_LABELLED,), device=known.device))

    def log_likelihood(self, features: Tensor, batch: Batch) -> Tensor:
        """Return the mean of ``log q(y | x)`` of labelled observations with features ``(B, C)``, a scalar."""
        return self.log_probs(features).take_along_dim(self.argument.of(batch).long().unsqueeze(-1), dim=-1).mean()
