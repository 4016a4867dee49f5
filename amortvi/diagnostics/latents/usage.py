r"""How far each number of the latent vector is used: what its posteriors say beyond the prior.

A number whose posterior is the prior for every observation tells nothing of them: it has *collapsed*. For number ``j`` of the
unconstrained vector this measures the variance over observations of its posterior mean,
:math:`\operatorname{Var}_x E[u_j \mid x]` (Burda, Grosse and Salakhutdinov, 2016), and the divergence of its marginal posterior
from its marginal prior,

.. math::

    \mathrm{KL}_j(x) = \mathrm{KL}\bigl(q_j(u_j \mid x) \,\|\, p_j(u_j)\bigr) = -H(q_j) - E_{q_j}[\log p_j(u_j)].

Where the prior is a fixed ``N(0, I)`` and the marginals are Gaussian it is exact. Elsewhere the second term is an average over
draws, and so is the first for families without Gaussian marginals.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.chunks import Gathered
from amortvi._util.lazy import stats
from amortvi._util.random import random_state
from amortvi.data import Batch
from amortvi.data.chunks import numbers_per_row
from amortvi.errors import AmortviWarning
from amortvi.families import Family
from amortvi.model.priors import PriorRuns, priors_depend
from amortvi.model.program import GenerativeModel
from amortvi.posterior.importance_sampling import weighing
from amortvi.posterior.posterior import Posterior

__all__ = ["ACTIVE", "DEAD", "FEWEST_STEPS", "LOOKED_AT", "Usage", "usage", "warn_of_dead_latents"]

ACTIVE = 0.01
"""The part of its prior variance that the posterior mean of an active number varies by over the observations; Burda et al.'s
threshold, which is for priors of variance one."""

DEAD = 0.01
"""The mean KL, in nats, that a number with something to say has at least."""

FEWEST_STEPS = 500
"""Steps before which a fit is not judged: an encoder may start at the prior, and has to learn first."""

LOOKED_AT = 1024
"""How many observations `warn_of_dead_latents` wants to look at: enough for a mean."""

_RUNS = 16
"""Draws of the other latents, over which a prior that depends on them is averaged."""

_PRIOR_DRAWS = 1000
"""Draws that the moments of the prior take at least."""

_WARNING_DRAWS = 200
_NAMED = 8


@dataclass(frozen=True)
class Usage:
    """How far each of the ``D`` numbers of the unconstrained latent vector is used.

    Args:
        labels: of the numbers.
        mean_covariance: the covariance over observations of the posterior means, ``(D, D)``.
        kl: the mean KL of the marginal posterior to the marginal prior in nats, ``(D,)``; NaN for the numbers of a site whose
            prior is joint, such as a Dirichlet, for which it is not known. For independent priors their sum falls short of the
            KL of the whole vector by what the posterior's own correlations are worth.
        mean: of the aggregate posterior, the mixture of the posteriors of all observations, ``(D,)``.
        variance: of the aggregate posterior, ``(D,)``.
        prior_mean: of the prior, ``(D,)``.
        prior_variance: of the prior, ``(D,)``.
    """

    labels: tuple[str, ...]
    mean_covariance: Tensor
    kl: Tensor
    mean: Tensor
    variance: Tensor
    prior_mean: Tensor
    prior_variance: Tensor

    @property
    def mean_variance(self) -> Tensor:
        """The variance over observations of the posterior mean, ``(D,)``."""
        return self.mean_covariance.diagonal()

    @property
    def active(self) -> Tensor:
        """Whether the posterior mean varies from one observation to another, ``(D,)``."""
        return self.mean_variance > ACTIVE * self.prior_variance

    @property
    def dead(self) -> Tensor:
        """Whether the posterior is the prior whatever the observation, ``(D,)``: a KL below 0.01 nats, and not active.

        Half of that KL is enough: with the prior ``N(0, 1)`` a number is then not active, for the KL is at least half of the
        squared mean; with a prior that depends on covariates the mean varies even if the posterior only repeats it. Where there
        is no KL, what is not active is dead.
        """
        return torch.where(self.kl.isnan(), ~self.active, (self.kl < DEAD) & (~self.active | (self.kl < DEAD / 2)))

    @property
    def directions(self) -> Tensor:
        """The variances of the posterior mean along its principal directions, the largest first, ``(D,)``.

        They are in units of the prior's variance.
        """
        scale = self.prior_variance.rsqrt()
        scaled = scale.unsqueeze(-1) * self.mean_covariance * scale
        return torch.linalg.eigvalsh(scaled).flip(0).clamp(min=0)

    @property
    def active_directions(self) -> int:
        """Along how many principal directions the posterior mean varies over the observations."""
        return int((self.directions > ACTIVE).sum())


def usage(model: GenerativeModel, posterior: Posterior, draws: int) -> Usage:
    """Measure how far each number of the latent vector is used.

    Args:
        model: the generative model; it runs, in evaluation mode, only where the prior is no fixed ``N(0, I)``.
        posterior: of ``N`` observations.
        draws: for each observation, where something has no closed form.

    Raises:
        ModelError: the model fails.
    """
    family, prototype = posterior.family, posterior.prototype
    exact = prototype.standard_normal_prior and family.has_gaussian_marginals and family.has_closed_form_moments
    with weighing(model):
        runs = 0
        if not prototype.standard_normal_prior:
            depends = priors_depend(model, prototype, posterior.first())
            runs = max(_RUNS if depends else 1, _PRIOR_DRAWS // len(posterior))
        measure = _Measure(model, posterior, 0 if exact else draws, runs)
        gathered = Gathered(posterior.size)
        width = numbers_per_row(lambda batch: measure(batch, posterior.of(batch)), posterior.first())
        for batch, q in posterior.chunks(width):
            gathered.add(measure(batch, q))
    return _summary(posterior, gathered.result(), 0 if family.has_closed_form_moments else draws)


def _summary(posterior: Posterior, each: dict[str, Tensor], drawn: int) -> Usage:
    """Put together what was found for each observation, ``(N, D)``; ``drawn`` is how many draws made each mean, 0 for none."""
    mean, variance = each["mean"], each["variance"]
    centred = mean - mean.mean(0)
    between = centred.mT @ centred / max(1, mean.shape[0] - 1)
    # The means of few draws vary by themselves.
    noise = variance.mean(0) / drawn if drawn else torch.zeros_like(mean[0])
    if "prior" in each:
        prior = each["prior"].flatten(0, 1)
        prior_mean, prior_variance = prior.mean(0), prior.var(0)
    else:
        prior_mean, prior_variance = torch.zeros_like(noise), torch.ones_like(noise)
    return Usage(
        labels=tuple(posterior.latents.labels),
        mean_covariance=between - noise.diag(),
        kl=each["kl"].mean(0),
        mean=mean.mean(0),
        variance=mean.var(0, correction=0) + variance.mean(0) - noise,
        prior_mean=prior_mean,
        prior_variance=prior_variance,
    )


class _Measure:
    """What is found for each observation of a batch: moments of the posterior, the KL, and draws from the prior.

    Args:
        model: the generative model.
        posterior: of the observations.
        draws: from the posterior of each; 0 where everything is known in closed form.
        runs: of the model, for the prior.
    """

    def __init__(self, model: GenerativeModel, posterior: Posterior, draws: int, runs: int) -> None:
        self.model = model
        self.posterior = posterior
        self.draws = draws
        self.runs = runs

    def __call__(self, batch: Batch, q: Distribution) -> dict[str, Tensor]:
        family, prototype = self.posterior.family, self.posterior.prototype
        if not self.draws:
            mean, variance = q.mean.cpu().double(), q.variance.cpu().double()
            kl = 0.5 * (mean.square() + variance - 1 - variance.log())
            return {"mean": mean, "variance": variance, "kl": kl}
        vector = q.sample(torch.Size([self.draws]))
        if family.has_closed_form_moments:
            # With the right moments, averages of the quadratic that the logarithm of a normal prior is have no noise.
            vector = q.mean + (q.variance / vector.var(0, correction=0)).sqrt() * (vector - vector.mean(0))
        mean, variance = _moments(family, q, vector)
        found = {"mean": mean, "variance": variance}
        if prototype.standard_normal_prior:
            log_prior = -0.5 * (vector.cpu().double().square() + math.log(2 * math.pi)).mean(0)
        else:
            prior = PriorRuns(self.model, prototype, batch, self.runs)
            log_prior = prior.log_prob(vector).cpu().double().mean(0)
            found["prior"] = prior.vector.movedim(0, 1).cpu().double()
        return {**found, "kl": -_entropy(family, variance, vector) - log_prior}


def _moments(family: Family, q: Distribution, vector: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and variance of each number, ``(B, D)``, in double precision on the CPU."""
    if family.has_closed_form_moments:
        return q.mean.cpu().double(), q.variance.cpu().double()
    drawn = vector.cpu().double()
    return drawn.mean(0), drawn.var(0)


def _entropy(family: Family, variance: Tensor, vector: Tensor) -> Tensor:
    """Return the entropy of each marginal in nats, ``(B, D)``; from draws by their spacings where it is not Gaussian."""
    constant = 0.5 * (1 + math.log(2 * math.pi))
    if family.has_gaussian_marginals:
        return constant + 0.5 * variance.log()

    draws = vector.cpu().double().numpy()
    # Spacings of few draws are too small or too large by about the same for any law: by what they are for a normal one.
    normal = torch.randn(draws.shape[0], 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    bias = stats.differential_entropy(normal.numpy(), axis=0).mean() - constant
    return torch.from_numpy(stats.differential_entropy(draws, axis=0) - bias)


def warn_of_dead_latents(model: GenerativeModel, posterior: Posterior) -> None:
    """Warn if the posteriors of some numbers of the latent vector are the prior, whatever the observation.

    Args:
        model: the generative model, trained with the posteriors.
        posterior: of some of the training data.
    """
    with random_state(0, posterior.device):
        found = usage(model, posterior, _WARNING_DRAWS)
    dead = [label for label, is_dead in zip(found.labels, found.dead.tolist(), strict=True) if is_dead]
    if dead:
        more = f" and {len(dead) - _NAMED} more" if len(dead) > _NAMED else ""
        warnings.warn(
            f"{len(dead)} of {len(found.labels)} latent dimensions are dead: {', '.join(dead[:_NAMED])}{more}. Their posterior "
            f"is the prior for every observation (KL below {DEAD} nats), so they say nothing of the data. If the data need no "
            f"more, a smaller latent does as well. If they do, let the weight of the KL rise while training, with "
            f"objective=ELBO(kl_weight=LinearSchedule(epochs)) or ELBO(free_bits=0.1), or train with objective='iwae'. "
            f"amortvi.latent_usage tells more.",
            AmortviWarning,
            stacklevel=3,
        )
