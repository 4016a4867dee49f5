r"""Per-observation log weights: the one thing that every objective is made of.

With :math:`z_{ik} \sim q(z \mid x_i)`,

.. math::

    \log w_{ki} = \log p(x_i, z_{ik}) - \log q(z_{ik} \mid x_i).

They are of one observation each, *without* the scale that a subsampled plate puts on the log-probabilities of a batch.
So a bound of each observation is a reduction over ``k`` alone, right for any batch size. Pyro's ``RenyiELBO`` puts scaled
log-probabilities inside the logarithm of a sum, where the scale does not come out again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Size, Tensor
from torch.distributions import Distribution

from amortvi.generative import GenerativeModel
from amortvi.observations import Batch
from amortvi.prototype import Prototype
from amortvi.scoring import log_jacobian, score, sum_of

__all__ = ["LogWeights", "log_weights"]


@dataclass(frozen=True)
class LogWeights:
    """What model and guide say of ``K`` draws of the latents of ``B`` observations.

    Args:
        log_likelihoods: for each observed site its log-probability, ``(K, B)``.
        log_priors: for each latent site its log-probability, ``(K, B)``.
        log_posterior: ``log q(z | x)`` in the support of the sites, ``(K, B)``.
        closed_form_kl: ``KL(q || N(0, I))``, ``(B,)``; then ``log_priors`` and ``log_posterior`` were not computed.
        global_log_prob: the log-probability of what stands outside the data plate, a number; it belongs to the data set
            as a whole, not to an observation.
        vector: the draws themselves, unconstrained, ``(K, B, D)``.
    """

    log_likelihoods: Mapping[str, Tensor]
    log_priors: Mapping[str, Tensor]
    log_posterior: Tensor | None
    closed_form_kl: Tensor | None
    global_log_prob: Tensor
    vector: Tensor

    @property
    def log_likelihood(self) -> Tensor:
        """``log p(x | z)``, ``(K, B)``."""
        return sum_of(self.log_likelihoods)

    @property
    def log_ratio(self) -> Tensor:
        """``log q(z | x) - log p(z)``, ``(K, B)``, whose mean over draws estimates the KL."""
        assert self.log_posterior is not None
        return self.log_posterior - sum_of(self.log_priors)

    @property
    def log_weight(self) -> Tensor:
        """``log w``, ``(K, B)``."""
        return self.log_likelihood - self.log_ratio

    @property
    def reconstruction(self) -> Tensor:
        """The estimate of ``E_q[log p(x | z)]``, ``(B,)``."""
        return self.log_likelihood.mean(0)

    @property
    def kl(self) -> Tensor:
        """``KL(q || p(z))``, exact where it was asked for in closed form, else estimated, ``(B,)``."""
        return self.log_ratio.mean(0) if self.closed_form_kl is None else self.closed_form_kl

    def parts(self) -> dict[str, Tensor]:
        """Every term by the name of its site, to find the one that is not finite."""
        named = {f"observed site {name!r}": value for name, value in self.log_likelihoods.items()}
        named |= {f"latent site {name!r} (prior)": value for name, value in self.log_priors.items()}
        if self.log_posterior is not None:
            named["the posterior (guide)"] = self.log_posterior
        if self.closed_form_kl is not None:
            named["the KL of the posterior (guide)"] = self.closed_form_kl
        named["the sites outside the plate"] = self.global_log_prob
        return named


def log_weights(
    model: GenerativeModel,
    prototype: Prototype,
    posterior: Distribution,
    batch: Batch,
    draws: int,
    *,
    closed_form_kl: bool = False,
    log_density: Callable[[Tensor], Tensor] | None = None,
) -> LogWeights:
    """Draw ``draws`` latents of each observation from its posterior and score them under model and posterior.

    Args:
        model: the generative model.
        prototype: its structure.
        posterior: of the observations, batch shape ``(B,)``, event shape ``(D,)``, reparameterized.
        batch: ``B`` observations.
        draws: ``K``.
        closed_form_kl: use the family's KL to ``N(0, I)`` in place of the two densities that estimate it.
        log_density: what scores the draws as ``log q``, ``(K, B, D)`` to ``(K, B)``; by default ``posterior`` itself.

    Raises:
        ModelError: the model fails, or its plate has not the size of the batch.
    """
    vector = posterior.rsample(Size([draws]))
    values, log_dets = prototype.latents.constrain(vector)
    scores = score(model, prototype, batch, values, skip_priors=closed_form_kl)
    if closed_form_kl:
        log_posterior, kl = None, posterior.kl_standard_normal()  # type: ignore[attr-defined]  # the family says it has it
    else:
        log_q = (log_density or posterior.log_prob)(vector)
        log_posterior, kl = log_q - log_jacobian(log_dets, log_q), None
    latent = {site.name for site in prototype.latents.sites}
    return LogWeights(
        log_likelihoods={name: value for name, value in scores.local.items() if name not in latent},
        log_priors={name: value for name, value in scores.local.items() if name in latent},
        log_posterior=log_posterior,
        closed_form_kl=kl,
        global_log_prob=scores.global_log_prob,
        vector=vector,
    )
