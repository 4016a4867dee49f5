r"""Objectives with labels of which some are missing (Kingma, Rezende, Mohamed and Welling, 2014).

A bound :math:`\mathcal{L}(x, y)` of the log evidence of an observation with its label gives a bound of that without the label,

.. math::

    \log p(x) \ge \sum_y q(y \mid x)\, \bigl(\mathcal{L}(x, y) - \log q(y \mid x)\bigr).

That is Renyi's bound of order :math:`\alpha = 1` over the labels, which fits the ELBO. An objective of another order combines the
labels as it combines draws,

.. math::

    \frac{1}{1 - \alpha} \log \sum_y q(y \mid x)^\alpha\, e^{(1 - \alpha) \mathcal{L}(x, y)};

with :math:`\alpha = 0`, the importance-weighted bound, it is the exact sum over labels. As :math:`q(y \mid x)` has no part in
that, the classifier always follows the first bound, which it maximizes where it is the posterior of the label.

Where the label is known, :math:`q` has all of its probability there, and every bound is :math:`\mathcal{L}(x, y)`. Training also
follows the classification loss of the known labels, :math:`\alpha\, E[\log q(y \mid x)]`, since the bound of a labelled
observation does not depend on its classifier.
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
        excluded: the labels that are known not to be true, boolean, ``(M, B)``.
        classification: the classification loss, negative, times its weight, a scalar.
    """

    batch: Batch
    context: Tensor
    family: Family
    complete: frozenset[str]
    log_probs: Tensor
    excluded: Tensor
    classification: Tensor | float

    def combine(self, estimate: Estimate, order: float) -> Estimate:
        """Return the estimate for the ``B`` observations of the batch from that for observations with labels.

        Args:
            estimate: the estimate for the ``M B`` observations of `batch`.
            order: that of Renyi's bound over the labels.
        """
        bound, log_q = estimate.bound.detach().view_as(self.log_probs), self.log_probs
        terms = (order * log_q + (1 - order) * bound).masked_fill(self.excluded, -math.inf).detach()
        first = self._sum(log_q.exp() * (bound - log_q))
        total = first.detach() if order == 1 else terms.logsumexp(0) / (1 - order)
        followed = estimate.bound if estimate.surrogate is None else estimate.surrogate
        # The derivative of the bound over labels with respect to that of one of them.
        shares = terms.softmax(0)
        surrogate = self._sum(shares * followed.view_as(shares)) + first + self.classification
        return Estimate(total, self._weights(estimate.weights), surrogate)

    def _sum(self, values: Tensor) -> Tensor:
        """Return the sum over labels that may be true, ``(B,)``, of values ``(M, B)``, which may be infinite for the others."""
        return values.masked_fill(self.excluded, 0.0).sum(0)

    def _weights(self, weights: LogWeights) -> LogWeights:
        """Return the log weights of labels and latents, ``(K M, B)``: stratified draws, as many with each label."""
        draws = weights.drawn.vector.shape[0]

        def regroup(values: Tensor) -> Tensor:
            return values.unflatten(1, self.log_probs.shape).masked_fill(self.excluded, 0.0).flatten(0, 1)

        log_share, kl = self.log_probs.repeat(draws, 1) - math.log(draws), weights.closed_form_kl
        if kl is not None:
            kl = self._sum(self.log_probs.exp() * (kl.view_as(self.log_probs) + self.log_probs))
        log_posterior = weights.log_posterior
        return replace(
            weights,
            log_likelihoods={name: regroup(value) for name, value in weights.log_likelihoods.items()},
            log_priors={name: regroup(value) for name, value in weights.log_priors.items()},
            log_posterior=None if log_posterior is None else regroup(log_posterior) + self.log_probs.repeat(draws, 1),
            closed_form_kl=kl,
            drawn=Draws(weights.drawn.vector.unflatten(1, self.log_probs.shape).flatten(0, 1), log_share),
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
        excluded=classifier.excluded(batch).mT,
        classification=network.classification(),
    )
