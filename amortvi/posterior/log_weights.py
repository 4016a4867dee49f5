r"""The log weights of draws from a posterior, from which objectives, bounds and importance sampling are all computed.

With :math:`z_{ki} \sim q(z \mid x_i)`,

.. math::

    \log w_{ki} = \log p(x_i, z_{ki}) - \log q(z_{ki} \mid x_i).

Log-probabilities are *not* scaled to the size of a subsampled plate. A bound for one observation is therefore a reduction over
``k`` alone, and correct for every batch size. Pyro's ``RenyiELBO`` takes the logarithm of a sum of scaled terms, from which
the scale does not factor out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor
from torch.distributions import Distribution

from amortvi.data import Batch
from amortvi.errors import OptionError
from amortvi.families import Draws, kl_to_standard_normal
from amortvi.model import Model, log_jacobian, sum_sites
from amortvi.posterior.global_latents import GlobalDraw

__all__ = ["KLForm", "LogWeights", "closed_form_kl", "log_weights"]

KLForm: TypeAlias = Literal["auto", "closed_form", "sampled"]
"""How to compute the KL to the prior: ``"auto"`` uses the closed form if it is known, ``"closed_form"`` requires it."""


@dataclass(frozen=True)
class LogWeights:
    """The terms of the log weights of ``K`` draws of the latents of ``B`` observations.

    Args:
        log_likelihoods: for each observed site its log-probability, ``(K, B)``.
        log_priors: for each latent site its log-probability, ``(K, B)``; see `SiteLogProbs` for sites that depend on discrete
            latents.
        log_posterior: ``log q(z | x)`` in the support of the sites, ``(K, B)``.
        closed_form_kl: ``KL(q || p(z))``, ``(B,)``, computed instead of ``log_priors`` and ``log_posterior``.
        global_log_prob: the log-probability of the sites outside the data plate, minus ``log q`` of the global latents among
            them: a scalar that belongs to the whole data set.
        drawn: the draws.
    """

    log_likelihoods: Mapping[str, Tensor]
    log_priors: Mapping[str, Tensor]
    log_posterior: Tensor | None
    closed_form_kl: Tensor | None
    global_log_prob: Tensor
    drawn: Draws

    @property
    def log_likelihood(self) -> Tensor:
        """``log p(x | z)``, ``(K, B)``."""
        return sum_sites(self.log_likelihoods)

    @property
    def log_ratio(self) -> Tensor:
        """``log q(z | x) - log p(z)``, ``(K, B)``; its mean over draws estimates the KL."""
        assert self.log_posterior is not None
        return self.log_posterior - sum_sites(self.log_priors)

    @property
    def log_weight(self) -> Tensor:
        """``log w``, ``(K, B)``."""
        return self.log_likelihood - self.log_ratio

    @property
    def mean_log_weight(self) -> Tensor:
        """The estimate of ``E_q[log w]``, the ELBO, ``(B,)``."""
        return self.drawn.mean(self.log_weight)

    @property
    def log_mean_weight(self) -> Tensor:
        """The logarithm of the estimate of ``E_q[w]``, the evidence, ``(B,)``."""
        return self.drawn.log_mean_exp(self.log_weight)

    @property
    def reconstruction(self) -> Tensor:
        """The estimate of ``E_q[log p(x | z)]``, ``(B,)``."""
        return self.drawn.mean(self.log_likelihood)

    @property
    def kl(self) -> Tensor:
        """``KL(q || p(z))``, in closed form if that was computed, otherwise estimated, ``(B,)``."""
        return self.drawn.mean(self.log_ratio) if self.closed_form_kl is None else self.closed_form_kl

    def terms(self) -> dict[str, Tensor]:
        """Return every term by its description, to locate one that is not finite."""
        named = {f"observed site {name!r}": value for name, value in self.log_likelihoods.items()}
        named |= {f"latent site {name!r} (prior)": value for name, value in self.log_priors.items()}
        if self.log_posterior is not None:
            named["the posterior (guide)"] = self.log_posterior
        if self.closed_form_kl is not None:
            named["the KL of the posterior (guide)"] = self.closed_form_kl
        named["the sites outside the plate"] = self.global_log_prob
        return named

    def sites_of(self, terms: Collection[str]) -> list[str]:
        """Return the sites whose terms, of `terms`, are among ``terms``."""
        observed = [name for name in self.log_likelihoods if f"observed site {name!r}" in terms]
        return observed + [name for name in self.log_priors if f"latent site {name!r} (prior)" in terms]


def log_weights(
    model: Model,
    q: Distribution,
    batch: Batch,
    drawn: Draws,
    *,
    kl: KLForm = "sampled",
    log_density: Callable[[Tensor], Tensor] | None = None,
    theta: GlobalDraw | None = None,
    complete: frozenset[str] = frozenset(),
) -> LogWeights:
    """Evaluate the densities of draws of the latents under model and posterior.

    Args:
        model: the generative model.
        q: the posteriors, batch shape ``(B,)``, event shape ``(D,)``.
        batch: ``B`` observations.
        drawn: ``K`` draws from ``q``, with gradients if those of the log weights are needed.
        kl: how to compute the KL to the prior.
        log_density: maps draws, ``(K, B, D)``, to ``log q``, ``(K, B)``; by default the density of ``q`` itself.
        theta: the global latents, shared by all draws and observations; by default `Model.global_point`.
        complete: the discrete latents that stand for missing data and are not summed out, because nothing is missing here.

    Raises:
        ModelError: the model fails, or the size of its data plate does not match the batch.
        OptionError: ``kl="closed_form"``, but the closed form is unknown.
    """
    vector = drawn.vector
    exact_kl = None if kl == "sampled" else closed_form_kl(model, q)
    if exact_kl is None and kl == "closed_form":
        standard_normal = model.structure.standard_normal_prior
        reason = f"that of {type(q).__name__} is unknown" if standard_normal else "the prior is not a fixed N(0, I)"
        raise OptionError(f"kl='closed_form' is not possible: {reason}; use kl='auto' or kl='sampled'.")
    values, log_dets = model.latents.constrain(vector)
    theta = theta or GlobalDraw()
    scores = model.log_probs(batch, values, theta=theta.values, skip_priors=exact_kl is not None, complete=complete)
    log_posterior = None
    if exact_kl is None:
        log_q = (log_density or q.log_prob)(vector)
        log_posterior = log_q - log_jacobian(log_dets, log_q)
    return LogWeights(
        log_likelihoods=scores.likelihoods,
        log_priors=scores.priors,
        log_posterior=log_posterior,
        closed_form_kl=exact_kl,
        global_log_prob=scores.global_log_prob - theta.log_density,
        drawn=drawn,
    )


def closed_form_kl(model: Model, q: Distribution) -> Tensor | None:
    """Return the KL to the prior in nats, ``(B,)``, or ``None`` if its closed form is unknown."""
    return kl_to_standard_normal(q) if model.structure.standard_normal_prior else None
