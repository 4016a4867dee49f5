r"""Posterior collapse: latents whose posterior is the prior, so that they say nothing of the data.

A number of the latent vector is *active* if its posterior mean varies over the observations,
:math:`\operatorname{Var}_x E[u_j \mid x] > 0.01` times its prior variance (Burda, Grosse and Salakhutdinov, 2016). It is *dead*
if it is not, and the mean KL of its marginal posterior to its marginal prior is below 0.01 nats. All is measured on the
unconstrained vector, on which the families work, and whose labels are `LatentVector.labels`.

Small variances add up to no more than they are: a hundred numbers that all repeat a trace of one thing are active, each by
itself. A posterior with correlations can have a dead direction that lies across active numbers. So the variances of the
posterior mean along its principal directions are given as well; the number of active ones is what the latents use together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amortvi._util.checks import positive_int
from amortvi._util.lazy import pandas as pd
from amortvi._util.lazy import stats
from amortvi._util.random import random_state
from amortvi.diagnostics.latents.aggregate import Aggregate, aggregate_draws, mutual_information
from amortvi.diagnostics.latents.usage import Usage, usage
from amortvi.errors import DataError, OptionError
from amortvi.inference import AmortizedVI
from amortvi.posterior.evaluation import weigh
from amortvi.posterior.importance_sampling import weighing
from amortvi.posterior.posterior import Posterior

__all__ = ["LatentUsage", "latent_usage"]

_FEWEST_DRAWS = 10
_NAMED = 10


@dataclass(frozen=True)
class LatentUsage:
    """How far a fitted model uses its ``D`` latent numbers; information in nats, an observation.

    Args:
        each: the use of each number of the unconstrained vector.
        observations: ``N``, how many were looked at.
        ks: the largest distance between the distribution functions of aggregate posterior and prior, ``(D,)``: the statistic
            of Kolmogorov and Smirnov.
        kl: the mean KL of the posteriors to the prior.
        kl_se: its Monte Carlo standard error, 0 where it is exact.
        mutual_information: what the latents tell of which of the ``N`` observations they belong to: at most ``log N``, and a
            lower bound of the mutual information in the population.
        mutual_information_se: its Monte Carlo standard error.
        aggregate: draws from the aggregate posterior, ``(P, D)``.
        prior: as many from the prior, ``(P, D)``.
    """

    each: Usage
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
        """``log N``, above which the mutual information cannot be seen with so many observations."""
        return math.log(self.observations)

    @property
    def aggregate_kl(self) -> float:
        """The KL of the aggregate posterior to the prior: what draws from the prior miss. An upper bound for the population."""
        return self.kl - self.mutual_information

    def to_frame(self) -> pd.DataFrame:
        """Return a row a number of the latent vector."""
        columns = {
            "active": self.each.active,
            "dead": self.each.dead,
            "kl": self.each.kl,
            "mean_variance": self.each.mean_variance,
            "mean": self.each.mean,
            "sd": self.each.variance.sqrt(),
            "prior_mean": self.each.prior_mean,
            "prior_sd": self.each.prior_variance.sqrt(),
            "ks": self.ks,
        }
        arrays = {name: value.numpy() for name, value in columns.items()}
        return pd.DataFrame(arrays, index=pd.Index(self.each.labels, name="latent"))

    def __str__(self) -> str:
        each, total = self.each, len(self.each.labels)
        dead = [label for label, is_dead in zip(each.labels, each.dead.tolist(), strict=True) if is_dead]
        named = ", ".join(dead[:_NAMED]) + (f" and {len(dead) - _NAMED} more" if len(dead) > _NAMED else "")
        lines = [
            f"{int(each.active.sum())} of {total} latent dimensions are active ({each.active_directions} directions), "
            f"{len(dead)} dead{': ' if dead else ''}{named}; {self.observations} observations.",
            f"KL {self.kl:.2f} nats = mutual information {self.mutual_information:.2f} ± {self.mutual_information_se:.2f} "
            f"(at most log N = {self.mutual_information_bound:.2f}) + aggregate posterior to prior {self.aggregate_kl:.2f}.",
        ]
        unknown = int(each.kl.isnan().sum())
        if unknown:
            lines.append(f"{unknown} dimensions have a joint prior, and so no KL of their own.")
        return "\n".join(lines)


def latent_usage(
    vi: AmortizedVI, x: Any, *, draws: int = 100, points: int = 2048, seed: int | None = None
) -> LatentUsage:
    """Measure which latents are used and which have collapsed to their prior.

    The time goes with ``points`` times the number of observations: a few seconds for some thousands of them.

    Args:
        vi: a fitted estimator.
        x: observations, as for `AmortizedVI.fit`; at least two, some hundreds to say much.
        draws: for each observation, where something has no closed form; at least 10.
        points: draws from the aggregate posterior.
        seed: reproduces the draws and leaves the caller's random state as it was.

    Returns:
        The use of each number of the latent vector, and of all together.

    Raises:
        NotFittedError: the guide has not seen data yet.
        DataError: the observations cannot be used, or there is only one.
        OptionError: ``draws`` or ``points`` is out of range.

    References:
        Burda, Grosse and Salakhutdinov, 2016, "Importance weighted autoencoders" (active units); Hoffman and Johnson, 2016,
        "ELBO surgery" (mutual information, aggregate posterior).

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.0], [0.5, 0.0]]), scale=0.5)  # z[1] does nothing
        >>> x = model.simulate(500, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), freeze_model=True)
        >>> used = avi.latent_usage(vi.fit(x, epochs=30, lr=0.05, seed=0, progress=False), x, seed=0)
        >>> used.to_frame()["dead"].to_dict()
        {'z[0]': False, 'z[1]': True}
    """
    count, number = positive_int("draws", draws), positive_int("points", points)
    if count < _FEWEST_DRAWS:
        raise OptionError(f"draws must be at least {_FEWEST_DRAWS}, to estimate moments from; got {count}.")
    posterior = vi.posterior(x)
    observations = len(posterior)
    if observations < 2:
        raise DataError("x must have at least two observations: a latent is used where it differs between them; got 1.")
    model = vi.generative
    with random_state(seed, vi.device), weighing(model):
        found = usage(model, posterior, count)
        drawn = aggregate_draws(model, posterior, number)
        information, information_se = mutual_information(posterior, drawn)
        kl, kl_se = _mean_kl(vi, posterior, count)
    return LatentUsage(
        each=found,
        observations=observations,
        ks=_distance(drawn, exact=posterior.prototype.standard_normal_prior),
        kl=kl,
        kl_se=kl_se,
        mutual_information=information,
        mutual_information_se=information_se,
        aggregate=drawn.vector,
        prior=drawn.prior,
    )


def _mean_kl(vi: AmortizedVI, posterior: Posterior, draws: int) -> tuple[float, float]:
    """Return the mean KL of the posteriors to the prior, and its Monte Carlo standard error."""
    if posterior.prototype.standard_normal_prior and posterior.family.has_closed_form_kl:
        exact = [q.kl_standard_normal().cpu().double() for _, q in posterior.chunks()]  # type: ignore[attr-defined]
        return float(torch.cat(exact).mean()), 0.0

    def moments(ratio: Tensor) -> dict[str, Tensor]:
        return {"mean": ratio.mean(0), "variance": ratio.var(0)}

    each = weigh(vi.generative, posterior, draws, lambda weighed: moments(weighed.log_ratio))
    error = math.sqrt(float(each["variance"].mean()) / (draws * len(each["mean"])))
    return float(each["mean"].mean()), error


def _distance(drawn: Aggregate, *, exact: bool) -> Tensor:
    """Return the Kolmogorov-Smirnov distance of each number; ``exact`` says that the prior is ``N(0, 1)``."""

    aggregate, prior = drawn.vector.double().numpy(), drawn.prior.double().numpy()
    if exact:
        tested = stats.ks_1samp(aggregate, stats.norm.cdf, method="asymp")
    else:
        tested = stats.ks_2samp(aggregate, prior, method="asymp")
    return torch.from_numpy(np.atleast_1d(tested.statistic))
