r"""Draws from the exact posterior, by resampling draws from an approximate one (Rubin, 1988).

Of many draws from :math:`q` some are chosen with probabilities in proportion to their weights
:math:`p(x, z) / q(z \mid x)`, whose tail is smoothed first (Vehtari, Simpson, Gelman, Yao and Gabry, 2024). What is chosen
follows the exact posterior in the limit of many proposals. How many that takes depends on the tail, of which k-hat tells.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor
from torch.distributions import Distribution

from amortvi._checks import positive_int
from amortvi._chunks import Gathered
from amortvi.data_check import check_data
from amortvi.errors import AmortviWarning, NonFiniteError, OptionError
from amortvi.generative import GenerativeModel
from amortvi.importance import k_hat_threshold, pareto_smoothed, resample
from amortvi.observations import Batch
from amortvi.prototype import Prototype
from amortvi.weighing import weigh_batch, weighing, weighing_tile

__all__ = ["Resampler", "proposals_or_none", "resampled"]

_FEWEST = 1000
_FOR_EACH_DRAW = 10


def proposals_or_none(draws: int, wanted: Any, proposals: Any) -> int | None:
    """Return how many proposals to resample draws from, or ``None`` where draws are to be taken as they are.

    Args:
        draws: how many draws are asked for.
        wanted: the user's ``resample``.
        proposals: the user's ``proposals``; ``None`` is ten for each draw, and 1,000 at least.

    Raises:
        OptionError: ``wanted`` is not a boolean, there are fewer proposals than draws, or proposals for nothing.
    """
    if not isinstance(wanted, bool):
        raise OptionError(
            f"resample must be True or False; got {wanted!r}. How many draws to resample from is proposals=."
        )
    if not wanted:
        if proposals is not None:
            raise OptionError(f"proposals={proposals!r} needs resample=True: without, draws are taken as they are.")
        return None
    count = max(_FEWEST, _FOR_EACH_DRAW * draws) if proposals is None else positive_int("proposals", proposals)
    if count < draws:
        raise OptionError(f"proposals must be at least as many as draws, {draws}, and better ten times; got {count}.")
    return count


class Resampler:
    """Draws from the exact posteriors of one batch after the other, and remembers where they are not to be trusted.

    Args:
        model: the generative model.
        prototype: its structure.
        draws: how many are wanted of each observation.
        proposals: how many are drawn from ``q`` and weighed.
    """

    def __init__(self, model: GenerativeModel, prototype: Prototype, draws: int, proposals: int) -> None:
        self.model = model
        self.prototype = prototype
        self.draws = draws
        self.proposals = proposals
        self._seen = 0
        self._doubtful = 0

    def __call__(self, batch: Batch, posterior: Distribution, *, at_once: int) -> Tensor:
        """Return draws of the unconstrained vector, ``(draws, B, D)``, where the batch is.

        Args:
            batch: ``B`` observations whose data were checked.
            posterior: their ``q``.
            at_once: how many proposals the model is given at once.

        Raises:
            NonFiniteError: no proposal of an observation has a weight above zero, or one has a weight that is no number.
        """
        with weighing(self.model):
            weighed = weigh_batch(
                self.model, self.prototype, batch, posterior, self.proposals, at_once=at_once, keep_draws=True
            )
        self._check(weighed.log_weight)
        smoothed = pareto_smoothed(weighed.log_weight)
        self._seen += batch.size
        self._doubtful += int((smoothed.k_hat >= k_hat_threshold(max(2, self.proposals))).sum())
        chosen = resample(smoothed.log_weights, self.draws)
        assert weighed.vector is not None
        vector = weighed.vector.gather(0, chosen.unsqueeze(-1).expand(-1, -1, weighed.vector.shape[-1]))
        return vector.to(next(batch.tensors()).device)

    def _check(self, log_weight: Tensor) -> None:
        largest = log_weight.amax(0)
        bad = ~largest.isfinite()
        if bad.any():
            position = int(bad.nonzero()[0])
            raise NonFiniteError(
                f"the draws of observation {self._seen + position} cannot be resampled: its largest log weight is "
                f"{float(largest[position])}. The model has a log-probability that is NaN or infinite there, or gives all draws "
                f"a probability of zero. amortvi.evidence says which observations this is true of."
            )

    def warn(self) -> None:
        """Warn of the observations whose draws are not to be trusted, if there are any, once all have been drawn."""
        if self._doubtful:
            warnings.warn(
                f"resampled draws of {self._doubtful} of {self._seen} observations are not to be trusted: with "
                f"{self.proposals} proposals k-hat is not below {k_hat_threshold(max(2, self.proposals)):.2f}, so their "
                f"posteriors miss too much of the exact ones. Refine the posteriors (AmortizedVI.refine), take a richer family, "
                f"or use MCMC for these; amortvi.evidence says which they are.",
                AmortviWarning,
                stacklevel=4,
            )


class _Proposing(Protocol):
    """What `resampled` asks of the posteriors of some observations."""

    @property
    def prototype(self) -> Prototype: ...

    @property
    def size(self) -> int | None: ...

    def of(self, batch: Batch) -> Distribution: ...

    def first(self) -> Batch: ...

    def chunks(self, numbers_per_observation: int = 1) -> Iterator[tuple[Batch, Distribution]]: ...


def resampled(model: GenerativeModel, posterior: _Proposing, draws: int, proposals: int) -> dict[str, Tensor]:
    """Draw from the exact posterior of each observation.

    Args:
        model: the generative model; it runs in evaluation mode.
        posterior: of the observations, to propose from.
        draws: of each observation.
        proposals: draws from ``posterior`` to choose them from.

    Returns:
        For each site ``(draws, N, *nested, *event)``, on the CPU.

    Raises:
        DataError: a value is outside the support of the model's likelihood.
        NonFiniteError: no proposal of an observation has a weight above zero, or one has a weight that is no number.
    """
    prototype = posterior.prototype
    resampler = Resampler(model, prototype, draws, proposals)
    gathered = Gathered(posterior.size, dim=1)
    with weighing(model):
        tile = weighing_tile(model, prototype, posterior.of, posterior.first(), proposals)
        for batch, q in posterior.chunks(tile.numbers_per_observation):
            check_data(model, batch)
            gathered.add(prototype.latents.constrain(resampler(batch, q, at_once=tile.draws))[0])
    resampler.warn()
    return gathered.result()
