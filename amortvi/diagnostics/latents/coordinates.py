r"""How much the posterior of each latent coordinate differs from its prior, and between observations.

For coordinate :math:`j` of the unconstrained latent vector this module computes the variance over observations of the
posterior mean, :math:`\operatorname{Var}_x E[u_j \mid x]` (Burda, Grosse and Salakhutdinov, 2016), and the mean KL from the
marginal posterior to the marginal prior,

.. math::

    \mathrm{KL}_j(x) = \mathrm{KL}\bigl(q_j(u_j \mid x) \,\|\, p_j(u_j)\bigr) = -H(q_j) - E_{q_j}[\log p_j(u_j)].

The KL is exact if the prior is a fixed ``N(0, I)`` and the marginals have a closed-form KL to it, as Gaussians do. Otherwise
the expectation is an average over draws, and so is the entropy unless the marginals have it in closed form.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution, Normal, kl_divergence

from amortvi._util.lazy import stats
from amortvi._util.random import random_state
from amortvi.data import Batch, Observations
from amortvi.data.selection import evenly_spaced
from amortvi.errors import AmortviWarning
from amortvi.families import marginals, moments
from amortvi.inference import AmortizedVI
from amortvi.model import Model, PriorRuns, priors_depend_on_latents
from amortvi.posterior import Posterior
from amortvi.training import FitOptions

__all__ = ["INACTIVE_KL", "LEAST_STEPS", "CoordinateUsage", "coordinate_usage", "warn_of_inactive_latents"]

INACTIVE_KL = 0.01
"""The mean KL, in nats, below which a coordinate can be inactive."""

_ACTIVE_VARIANCE = 0.01
"""The variance of the posterior mean, relative to the prior variance, above which a coordinate is active (Burda et al.)."""

_PRIOR_RUNS = 16
"""Draws of the other latents over which a prior that depends on them is averaged."""

_PRIOR_DRAWS = 1000
"""The least number of draws from which the moments of the prior are estimated."""


@dataclass(frozen=True, eq=False)
class CoordinateUsage:
    """How much each of the ``D`` coordinates of the unconstrained latent vector is used.

    Args:
        labels: a label for each coordinate, such as ``z[0]``.
        mean_covariance: the covariance over observations of the posterior means, ``(D, D)``.
        kl: the mean KL from the marginal posterior to the marginal prior in nats, ``(D,)``; NaN for the coordinates of a site
            with a joint prior, such as a Dirichlet, because its marginals are unknown. If the prior is independent, the sum is
            the KL of the whole vector minus the total correlation of the posterior.
        mean: the mean of the aggregate posterior, the mixture of the posteriors of all observations, ``(D,)``.
        variance: the variance of the aggregate posterior, ``(D,)``.
        prior_mean: the mean of the prior, ``(D,)``.
        prior_variance: the variance of the prior, ``(D,)``.
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
        """Whether the posterior mean varies between observations, by more than 0.01 prior variances, ``(D,)``."""
        return self.mean_variance > _ACTIVE_VARIANCE * self.prior_variance

    @property
    def inactive(self) -> Tensor:
        """Whether the posterior equals the prior for every observation, ``(D,)``.

        A coordinate is inactive if its KL is below 0.01 nats and it is not active. If the prior depends on covariates, a
        posterior that only repeats the prior has a varying mean; a KL below 0.005 nats therefore suffices (with the prior
        ``N(0, 1)`` it implies that the coordinate is not active, because the KL is at least half the squared mean). If the KL
        is unknown, every coordinate that is not active is inactive.
        """
        below = (self.kl < INACTIVE_KL) & (~self.active | (self.kl < INACTIVE_KL / 2))
        return torch.where(self.kl.isnan(), ~self.active, below)

    @property
    def inactive_labels(self) -> list[str]:
        """The labels of the inactive coordinates."""
        return [label for label, inactive in zip(self.labels, self.inactive.tolist(), strict=True) if inactive]

    @property
    def directions(self) -> Tensor:
        """The variances of the posterior mean along its principal directions, in prior variances, descending, ``(D,)``."""
        scale = self.prior_variance.rsqrt()
        scaled = scale.unsqueeze(-1) * self.mean_covariance * scale
        return torch.linalg.eigvalsh(scaled).flip(0).clamp(min=0)

    @property
    def active_directions(self) -> int:
        """The number of principal directions along which the posterior mean varies between observations."""
        return int((self.directions > _ACTIVE_VARIANCE).sum())


def coordinate_usage(posterior: Posterior, draws: int) -> CoordinateUsage:
    """Measure how much each coordinate of the latent vector is used.

    Args:
        posterior: the posterior of each observation. Its model runs only if the prior is not a fixed ``N(0, I)``.
        draws: draws for each observation, used if there is no closed form.

    Raises:
        ModelError: the model fails.
    """
    model = posterior.model
    runs = 0 if model.structure.standard_normal_prior else _prior_runs(posterior)
    found = posterior.map_chunks(lambda chunk, q: _measure(model, chunk.batch, q, draws, runs))
    mean, variance, noise = found["mean"], found["variance"], found["noise"].mean(0)
    centered = mean - mean.mean(0)
    between = centered.mT @ centered / max(1, mean.shape[0] - 1)
    if runs:
        prior = found["prior"].flatten(0, 1)
        prior_mean, prior_variance = prior.mean(0), prior.var(0)
    else:
        prior_mean, prior_variance = torch.zeros_like(noise), torch.ones_like(noise)
    return CoordinateUsage(
        labels=tuple(posterior.latents.labels),
        mean_covariance=between - noise.diag(),
        kl=found["kl"].mean(0),
        mean=mean.mean(0),
        variance=mean.var(0, correction=0) + variance.mean(0) - noise,
        prior_mean=prior_mean,
        prior_variance=prior_variance,
    )


def _prior_runs(posterior: Posterior) -> int:
    """Return how often to run the model on each observation to know its prior."""
    with posterior.model.inference_mode():
        depends = priors_depend_on_latents(posterior.model, posterior.first())
    return max(_PRIOR_RUNS if depends else 1, _PRIOR_DRAWS // len(posterior))


def _measure(model: Model, batch: Batch, q: Distribution, draws: int, runs: int) -> dict[str, Tensor]:
    """Return the moments of each posterior, the variance of the error of its mean, its KL and draws from its prior.

    Args:
        model: the generative model, in `Model.inference_mode`.
        batch: ``B`` observations.
        q: their posteriors.
        draws: draws from each posterior, used if there is no closed form.
        runs: ``M``, the number of runs of the model from which the prior is computed; 0 if it is ``N(0, I)``.

    Returns:
        ``mean``, ``variance``, ``noise`` and ``kl``, ``(B, D)``, and with ``runs`` also ``prior``, ``(B, M, D)``; in double
        precision, on the CPU.
    """
    exact = _closed_form(q) if runs == 0 else None
    if exact is not None:
        return exact
    vector, known = q.sample(torch.Size([draws])), moments(q)
    if known is None:
        mean, variance = _double(vector).mean(0), _double(vector).var(0)
        noise = variance / draws
    else:
        # Draws with the exact moments average a quadratic log density, such as that of a normal prior, without error.
        vector = known[0] + (known[1] / vector.var(0, correction=0)).sqrt() * (vector - vector.mean(0))
        mean, variance = map(_double, known)
        noise = torch.zeros_like(mean)
    found = {"mean": mean, "variance": variance, "noise": noise}
    if runs:
        prior = PriorRuns(model, batch, runs)
        found["prior"] = _double(prior.vector.movedim(0, 1))
        log_prior = _double(prior.log_prob(vector)).mean(0)
    else:
        log_prior = -0.5 * (_double(vector).square() + math.log(2 * math.pi)).mean(0)
    return {**found, "kl": -_entropy(q, vector) - log_prior}


def _closed_form(q: Distribution) -> dict[str, Tensor] | None:
    """Return the result of `_measure` for the prior ``N(0, I)`` in closed form, or ``None`` if it is unknown."""
    known, marginal = moments(q), marginals(q)
    if known is None or marginal is None:
        return None
    mean, variance = known
    try:
        kl = kl_divergence(marginal, Normal(torch.zeros_like(mean), torch.ones_like(mean)))
    except NotImplementedError:
        return None
    found = {"mean": mean, "variance": variance, "noise": torch.zeros_like(mean), "kl": kl}
    return {name: _double(value) for name, value in found.items()}


def _entropy(q: Distribution, vector: Tensor) -> Tensor:
    """Return the entropy of each marginal in nats, ``(B, D)``; without a closed form, from the spacings of the draws."""
    marginal = marginals(q)
    if marginal is not None:
        with contextlib.suppress(NotImplementedError):
            return _double(marginal.entropy())
    # For few draws the estimate is biased, by about the same amount for every distribution: that of the normal one.
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(vector.shape[0], 1000, dtype=torch.float64, generator=generator).numpy()
    bias = stats.differential_entropy(normal, axis=0).mean() - 0.5 * (1 + math.log(2 * math.pi))
    return torch.from_numpy(stats.differential_entropy(_double(vector).numpy(), axis=0) - bias)


def _double(value: Tensor) -> Tensor:
    """Return ``value`` in double precision, on the CPU, because not every accelerator has it."""
    return value.cpu().double()


LEAST_STEPS = 500
"""The number of training steps from which on a fit is checked: an encoder may start at the prior and has to learn first."""

_OBSERVATIONS = 1024
_DRAWS = 200
_LISTED = 8


def warn_of_inactive_latents(vi: AmortizedVI, x: Observations, options: FitOptions) -> None:
    """Issue a warning if the posterior of some latent coordinates equals the prior for every observation.

    amortvi appends this function to `AmortizedVI.after_fit`. A frozen model and a model without parameters are not checked,
    because data can contain no information about some latents of a given model. A trained model has learned not to use them.

    Args:
        vi: the fitted estimator.
        x: the training data; about 1,000 observations are used.
        options: the options of the fit.
    """
    is_trained = not vi.freeze_model and any(parameter.requires_grad for parameter in vi.generative.parameters())
    steps = len(vi.history) * (x.steps(options.batch_size) or 1)
    if not is_trained or steps < LEAST_STEPS:
        return
    posterior = vi.posterior(evenly_spaced(x, _OBSERVATIONS), copy=False)
    with random_state(0, vi.device):
        used = coordinate_usage(posterior, _DRAWS)
    inactive = used.inactive_labels
    if inactive:
        more = f" and {len(inactive) - _LISTED} more" if len(inactive) > _LISTED else ""
        warnings.warn(
            f"{len(inactive)} of {len(used.labels)} latent dimensions are inactive: {', '.join(inactive[:_LISTED])}{more}. "
            f"Their posterior equals the prior for every observation (KL below {INACTIVE_KL} nats), so they carry no "
            f"information about the data. If the data need no more latents, reduce the number of latents. Otherwise increase "
            f"the weight of the KL gradually, with objective=ELBO(kl_weight=LinearSchedule(epochs)), or use "
            f"ELBO(free_bits=0.1) or objective='iwae'. amortvi.latent_usage shows the details.",
            AmortviWarning,
            stacklevel=5,  # fit calls hooks through the function in amortvi/__init__.py, and a decorator calls fit
        )
