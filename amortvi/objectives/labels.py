r"""Objectives with labels of which some are missing (Kingma, Rezende, Mohamed and Welling, 2014).

A bound :math:`\mathcal{L}(x, y)` of the log evidence of an observation with its label gives a bound of that without the label,

.. math::

    \log p(x) \ge \sum_y q(y \mid x)\, \bigl(\mathcal{L}(x, y) - \log q(y \mid x)\bigr),

whatever the objective. Where the label is known, :math:`q` has all of its probability there, and the sum is
:math:`\mathcal{L}(x, y)`. Training also follows the classification loss of the known labels,
:math:`\alpha\, E[\log q(y \mid x)]`, since the bound of a labelled observation does not depend on its classifier.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from torch import Tensor

from amortvi.data import Batch
from amortvi.families import Draws, Family, GivenLabel
from amortvi.objectives.estimate import Estimate
from amortvi.posterior import InferenceNetwork, LogWeights

__all__ = ["GivenLabels", "given_labels"]


@dataclass(frozen=True)
class GivenLabels:
    """The observations of a batch, each with every label in turn.

    Args:
        batch: ``M B`` observations, label by label.
        context: the context of ``q(z | x, y)``, ``(M B, C)``.
        family: the family of ``q(z | x, y)``.
        complete: the discrete latents of the model that stand for missing labels.
        log_probs: ``log q(y | x)``, where a label is known with all probability there, ``(M, B)``.
        classification: the classification loss, negative, times its weight, a scalar.
    """

    batch: Batch
    context: Tensor
    family: Family
    complete: frozenset[str]
    log_probs: Tensor
    classification: Tensor | float

    def average(self, estimate: Estimate) -> Estimate:
        """Return the estimate for the ``B`` observations of the batch from that for observations with labels."""
        bound = self._mean(estimate.bound)
        followed = bound if estimate.surrogate is None else self._mean(estimate.surrogate)
        return Estimate(bound.detach(), self._weights(estimate.weights), followed + self.classification)

    def _mean(self, values: Tensor) -> Tensor:
        """Return the mean of ``values - log q(y | x)`` over labels, ``(B,)``, for values ``(M B,)``."""
        return (self.log_probs.exp() * (values.view_as(self.log_probs) - self.log_probs)).sum(0)

    def _weights(self, weights: LogWeights) -> LogWeights:
        """Return the log weights of labels and latents, ``(K M, B)``: stratified draws, as many with each label."""
        draws = weights.drawn.vector.shape[0]

        def regroup(values: Tensor) -> Tensor:
            return values.unflatten(1, self.log_probs.shape).flatten(0, 1)

        log_share = self.log_probs.repeat(draws, 1) - math.log(draws)
        kl, log_posterior = weights.closed_form_kl, weights.log_posterior
        return replace(
            weights,
            log_likelihoods={name: regroup(value) for name, value in weights.log_likelihoods.items()},
            log_priors={name: regroup(value) for name, value in weights.log_priors.items()},
            log_posterior=None if log_posterior is None else regroup(log_posterior) + self.log_probs.repeat(draws, 1),
            closed_form_kl=None if kl is None else -self._mean(-kl),
            drawn=Draws(regroup(weights.drawn.vector), log_share),
        )


def given_labels(network: InferenceNetwork, batch: Batch) -> GivenLabels:
    """Return the observations of a batch, each with every label in turn, for a network with a classifier."""
    classifier, family = network.classifier, network.family
    assert classifier is not None
    assert isinstance(family, GivenLabel)
    features = network.features(batch)
    log_probs = classifier.log_probs(features.of_labels)
    followed = log_probs.detach() + family.strength * (log_probs - log_probs.detach())
    return GivenLabels(
        batch=classifier.completed(batch),
        context=family.given(features.of_latents).movedim(-2, 0).flatten(0, 1),
        family=family.component,
        complete=frozenset({classifier.site}),
        log_probs=classifier.given(followed, batch).mT,
        classification=network.classification(),
    )
