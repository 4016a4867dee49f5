r"""The usage of each latent coordinate: how its posterior differs from the prior and varies between observations.

For coordinate :math:`j` of the unconstrained latent vector this module computes the variance over observations of the
posterior mean, :math:`\operatorname{Var}_x E[u_j \mid x]` (Burda, Grosse and Salakhutdinov, 2016), and the mean KL from the
marginal posterior to the marginal prior,

.. math::

    \mathrm{KL}_j(x) = \mathrm{KL}\bigl(q_j(u_j \mid x) \,\|\, p_j(u_j)\bigr) = -H(q_j) - E_{q_j}[\log p_j(u_j)].

The KL is exact if the prior is a fixed ``N(0, I)`` and the marginals have a closed-form KL to it, as Gaussians do. Otherwise
the expectation is averaged over draws, from which the entropy is also estimated unless the marginals have a closed form.
"""

from __future__ import annotations

import contextlib
import math
import sys
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

__all__ = ["CoordinateUsage", "abbreviated", "coordinate_usage", "warn_of_inactive_latents"]

_INACTIVE_KL = 0.01
"""The mean KL, in nats, below which a coordinate can be inactive."""

_ACTIVE_VARIANCE = 0.01
"""The variance of the posterior mean, relative to the prior variance, above which a coordinate is active (Burda et al.)."""


@dataclass(frozen=True, eq=False)
class CoordinateUsage:
    """How much each of the ``D`` coordinates of the unconstrained latent vector is used.

    Args:
        labels: a label for each coordinate, such as ``z[0]``.
        mean_covariance: the covariance over observations of the posterior means, ``(D, D)``.
        kl: the mean KL from the marginal posterior to the marginal prior in nats, ``(D,)``; NaN for the coordinates of a site
            with a joint prior, such as a Dirichlet, because its marginals are unknown. If the coordinates are independent
            under the prior, the sum is the KL of the whole vector minus the total correlation of the posterior.
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
        """Whether the variance of the posterior mean between observations exceeds 0.01 prior variances, ``(D,)``."""
        return self.mean_variance > _ACTIVE_VARIANCE * self.prior_variance

    @property
    def inactive(self) -> Tensor:
        """Whether the posterior equals the prior for every observation, ``(D,)``.

        A coordinate is inactive if its KL is below 0.01 nats and it is not active. A KL below 0.005 nats suffices, because the
        mean of a posterior that only repeats a prior with covariates varies. (With the prior ``N(0, 1)``, such a KL implies
        that the coordinate is not active, since the KL is at least half the squared mean.) If the KL is unknown, every
        coordinate that is not active is inactive.
        """
        below = (self.kl < _INACTIVE_KL) & (~self.active | (self.kl < _INACTIVE_KL / 2))
        return torch.where(self.kl.isnan(), ~self.active, below)

    @property
    def inactive_labels(self) -> list[str]:
        """The labels of the inactive coordinates."""
        return self.labels_of(self.inactive)

    def labels_of(self, chosen: Tensor) -> list[str]:
        """Return the labels of chosen coordinates, ``(D,)``."""
        return [label for label, is_chosen in zip(self.labels, chosen.tolist(), strict=True) if is_chosen]

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
    """Measure how much each coordinate is used, from ``draws`` draws per observation if there is no closed form.

    The model runs only if the prior is not a fixed ``N(0, I)``.
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


def abbreviated(labels: list[str]) -> str:
    """Return ``": "`` and the first labels, or an empty string without labels."""
    more = f" and {len(labels) - 8} more" if len(labels) > 8 else ""
    return f": {', '.join(labels[:8])}{more}" if labels else ""


def _prior_runs(posterior: Posterior) -> int:
    """Return the number of runs of the model on each observation from which its prior is estimated."""
    with posterior.model.inference_mode():
        depends = priors_depend_on_latents(posterior.model, posterior.first())
    # The moments are estimated from about 1,000 draws; a prior that depends on other latents is averaged over 16 draws of them.
    return max(16 if depends else 1, 1000 // len(posterior))


def _measure(model: Model, batch: Batch, q: Distribution, draws: int, runs: int) -> dict[str, Tensor]:
    """Return the moments of each posterior, the variance of the error of its mean, its KL and draws from its prior.

    Args:
        model: the generative model, in `Model.inference_mode`.
        batch: ``B`` observations.
        q: their posteriors.
        draws: draws from each posterior, used if there is no closed form.
        runs: ``M``, the number of runs of the model from which the prior is estimated; 0 if it is ``N(0, I)``.

    Returns:
        ``mean``, ``variance``, ``noise`` and ``kl``, ``(B, D)``, and ``prior``, ``(B, M, D)``, if ``runs`` is not 0; in double
        precision on the CPU.
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
    """Return the entropy of each marginal in nats, ``(B, D)``, estimated from spacings of the draws without a closed form."""
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
    """Return ``value`` in double precision, on the CPU because not every accelerator supports it."""
    return value.cpu().double()


_LEAST_STEPS = 500
"""The least number of training steps after which a fit is checked: an encoder may start at the prior."""


def warn_of_inactive_latents(vi: AmortizedVI, x: Observations, options: FitOptions) -> None:
    """Issue a warning if a trained model has inactive latent coordinates; a function in `AmortizedVI.after_fit`.

    A frozen model and a model without parameters are not checked: the data may contain no information about some latents of a
    given model, whereas a trained model has learned not to use them.
    """
    is_trained = not vi.freeze_model and any(parameter.requires_grad for parameter in vi.generative.parameters())
    if not is_trained or len(vi.history) * (x.steps(options.batch_size) or 1) < _LEAST_STEPS:
        return
    posterior = vi.posterior(evenly_spaced(x, 1024), copy=False)
    with random_state(0, vi.device):
        used = coordinate_usage(posterior, draws=200)
    inactive = used.inactive_labels
    if inactive:
        warnings.warn(
            f"{len(inactive)} of {len(used.labels)} latent dimensions are inactive{abbreviated(inactive)}. "
            f"Their posterior equals the prior for every observation (KL below {_INACTIVE_KL} nats), so they carry no "
            f"information about the data. If the data need no more latents, reduce the number of latents. Otherwise increase "
            f"the weight of the KL gradually, with objective=ELBO(kl_weight=LinearSchedule(epochs)), or use "
            f"ELBO(free_bits=0.1) or objective='iwae'. amortvi.latent_usage shows the details.",
            AmortviWarning,
            stacklevel=_frames_inside(),
        )


def _frames_inside() -> int:
    """Return the `stacklevel` of the line that called amortvi: how far it is depends on decorators and hooks."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "amortvi":
        frame, level = frame.f_back, level + 1
    return level
