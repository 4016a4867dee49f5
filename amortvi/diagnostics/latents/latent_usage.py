r"""Posterior collapse: latents with a posterior that equals the prior and thus carries no information about the data.

A coordinate of the unconstrained latent vector is *active* if its posterior mean varies between observations,
:math:`\operatorname{Var}_x E[u_j \mid x] > 0.01` times its prior variance (Burda, Grosse and Salakhutdinov, 2016). It is
*inactive* if its posterior equals its prior for every observation; see `CoordinateUsage.inactive`. A coordinate whose posterior
differs from the prior, but has the same mean for every observation, is neither.

Active coordinates can be redundant: a hundred coordinates that all repeat one weak signal are each active. A posterior with
correlations can have an inactive direction across active coordinates. The variances of the posterior mean along its principal
directions reveal both; the number of active directions is the number of dimensions that the latents use together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.checks import positive_int
from amortvi._util.lazy import pandas as pd
from amortvi._util.lazy import stats
from amortvi._util.random import random_state
from amortvi.data import Chunk
from amortvi.diagnostics.latents.aggregate import AggregateDraws, draw_aggregate, mutual_information
from amortvi.diagnostics.latents.coordinates import CoordinateUsage, abbreviated, coordinate_usage
from amortvi.errors import DataError
from amortvi.inference import AmortizedVI
from amortvi.posterior import Posterior
from amortvi.posterior.log_weights import closed_form_kl
from amortvi.posterior.non_finite import check_rows, not_finite

__all__ = ["LatentUsage", "latent_usage"]

_KL = "the KL from the posterior to the prior"


@dataclass(frozen=True, eq=False)
class LatentUsage:
    """How much a fitted model uses its ``D`` latent coordinates; information is in nats per observation.

    Args:
        coordinates: the usage of each coordinate of the unconstrained latent vector.
        observations: ``N``, the number of observations.
        ks: the Kolmogorov-Smirnov distance between aggregate posterior and prior for each coordinate, ``(D,)``.
        kl: the mean KL from the posteriors to the prior.
        kl_se: its Monte Carlo standard error; 0 if it is exact.
        mutual_information: the mutual information of the latents and the position of the observation among the ``N``, a lower
            bound on the mutual information in the population.
        mutual_information_se: its Monte Carlo standard error.
        aggregate: draws from the aggregate posterior, ``(P, D)``.
        prior: as many draws from the prior, ``(P, D)``.
    """

    coordinates: CoordinateUsage
    observations: int
    ks: Tensor
    kl: float
    kl_se: float
    mutual_information: float
    mutual_information_se: float
    aggregate: Tensor = field(repr=False)
    prior: Tensor = field(repr=False)

    @property
    def mutual_information_bound(self) -> float:
        """``log N``, the largest mutual information that ``N`` observations can show."""
        return math.log(self.observations)

    @property
    def aggregate_kl(self) -> float:
        """The KL from the aggregate posterior to the prior, an upper bound on that in the population.

        It measures how much draws from the prior differ from the latents of the data.
        """
        return self.kl - self.mutual_information

    def to_frame(self) -> pd.DataFrame:
        """Return one row per coordinate of the latent vector."""
        used = self.coordinates
        columns = {
            "active": used.active,
            "inactive": used.inactive,
            "kl": used.kl,
            "mean_variance": used.mean_variance,
            "mean": used.mean,
            "sd": used.variance.sqrt(),
            "prior_mean": used.prior_mean,
            "prior_sd": used.prior_variance.sqrt(),
            "ks": self.ks,
        }
        arrays = {name: value.numpy() for name, value in columns.items()}
        return pd.DataFrame(arrays, index=pd.Index(used.labels, name="latent"))

    def __str__(self) -> str:
        used = self.coordinates
        neither = used.labels_of(~(used.active | used.inactive))
        lines = [
            f"{int((used.active & ~used.inactive).sum())} of {len(used.labels)} latent dimensions are active, "
            f"{len(used.inactive_labels)} inactive{abbreviated(used.inactive_labels)}"
            f"{f', {len(neither)} neither (the posterior differs from the prior, but its mean does not vary)' * bool(neither)}"
            f"{abbreviated(neither)} ({self.observations} observations). "
            f"The posterior means vary along {used.active_directions} direction{'s' * (used.active_directions != 1)}.",
            f"KL {self.kl:.2f} nats = mutual information {self.mutual_information:.2f} ± {self.mutual_information_se:.2f} "
            f"(at most log N = {self.mutual_information_bound:.2f}) + KL from aggregate posterior to prior "
            f"{self.aggregate_kl:.2f}.",
        ]
        unknown = int(used.kl.isnan().sum())
        if unknown:
            lines.append(f"{unknown} dimensions have a joint prior, so their marginal KL is unknown.")
        return "\n".join(lines)


def latent_usage(
    vi: AmortizedVI,
    x: Any = None,
    *,
    posterior: Posterior | None = None,
    draws: int = 100,
    points: int = 2048,
    seed: int | None = None,
) -> LatentUsage:
    """Measure which latents are used and which have collapsed to their prior.

    The time is proportional to ``points`` times the number of observations: a few seconds for several thousand observations.

    Args:
        vi: a fitted estimator.
        x: observations, as for `AmortizedVI.fit`: at least two, and several hundred for precise results.
        posterior: the posterior of ``x`` to use; by default that of the encoder.
        draws: draws for each observation, used if there is no closed form; at least 10.
        points: draws from the aggregate posterior.
        seed: reproduces the draws and leaves the caller's random state untouched.

    Returns:
        The usage of each coordinate of the latent vector, and of the whole vector.

    Raises:
        NotFittedError: no data have been seen.
        DataError: the observations cannot be used, or there is only one.
        OptionError: ``draws`` or ``points`` is out of range.
        NonFiniteError: a KL is NaN or infinite.

    References:
        Burda, Grosse and Salakhutdinov, 2016, "Importance weighted autoencoders" (active units); Hoffman and Johnson, 2016,
        "ELBO surgery" (mutual information, aggregate posterior).

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.0], [0.5, 0.0]]), scale=0.5)  # z[1] has no effect
        >>> x = model.simulate(300, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), freeze_model=True).setup(x, seed=0)
        >>> used = avi.latent_usage(vi, posterior=vi.refine(x), seed=0)
        >>> used.to_frame()["inactive"].to_dict()
        {'z[0]': False, 'z[1]': True}
    """
    draws, points = positive_int("draws", draws, at_least=10), positive_int("points", points)
    posterior = vi.resolve_posterior(x, posterior)
    observations = len(posterior)
    if observations < 2:
        raise DataError("x must have at least two observations, because usage is variation between them; got 1.")
    with random_state(seed, vi.device):
        coordinates = coordinate_usage(posterior, draws)
        drawn = draw_aggregate(posterior, points)
        information, information_se = mutual_information(posterior, drawn)
        kl, kl_se = _mean_kl(posterior, draws)
    return LatentUsage(
        coordinates=coordinates,
        observations=observations,
        ks=_ks_distance(drawn, posterior.model.structure.standard_normal_prior),
        kl=kl,
        kl_se=kl_se,
        mutual_information=information,
        mutual_information_se=information_se,
        aggregate=drawn.vector,
        prior=drawn.prior,
    )


def _mean_kl(posterior: Posterior, draws: int) -> tuple[float, float]:
    """Return the mean KL from the posteriors to the prior, and its Monte Carlo standard error."""

    def exact(_: Chunk, q: Distribution) -> Mapping[str, Tensor]:
        kl = closed_form_kl(posterior.model, q)
        return {} if kl is None else {"kl": kl}

    known = posterior.map_chunks(exact)
    if known:
        check_rows(not_finite(known["kl"]), _KL, posterior.index)
        return float(known["kl"].double().mean()), 0.0
    estimate = posterior.importance_sample(
        draws, lambda weighted: {"mean": weighted.log_ratio.mean(0), "variance": weighted.log_ratio.var(0)}
    )
    mean, variance = estimate["mean"], estimate["variance"]
    check_rows(not_finite(mean), _KL, posterior.index)
    return float(mean.mean()), math.sqrt(float(variance.mean()) / (draws * len(mean)))


def _ks_distance(drawn: AggregateDraws, standard_normal_prior: bool) -> Tensor:
    aggregate, prior = drawn.vector.double().numpy(), drawn.prior.double().numpy()
    if standard_normal_prior:
        test = stats.ks_1samp(aggregate, stats.norm.cdf, method="asymp")
    else:
        test = stats.ks_2samp(aggregate, prior, method="asymp")
    return torch.from_numpy(np.atleast_1d(test.statistic))
