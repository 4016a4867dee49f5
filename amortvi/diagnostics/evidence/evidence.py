r"""The evidence of each observation by importance sampling, and how far it is to be trusted.

With ``K`` draws :math:`z_k \sim q(z \mid x)` and weights :math:`w_k = p(x, z_k) / q(z_k \mid x)`, the mean weight
:math:`\hat p = \tfrac1K \sum_k w_k` is an unbiased estimate of :math:`p(x)`. Its logarithm, the importance-weighted bound (Burda,
Grosse and Salakhutdinov, 2016), lies below :math:`\log p(x)` on average, by about half its variance. By the delta method that is

.. math::

    \operatorname{Var}[\log \hat p] \approx \frac{1}{K - 1} \Bigl(\frac{K \sum_k w_k^2}{(\sum_k w_k)^2} - 1\Bigr)
    = \frac{K / \mathrm{ESS} - 1}{K - 1}.

Both say little where the weights have a heavy tail and the draws have missed the largest. That is what k-hat tells (Vehtari,
Simpson, Gelman, Yao and Gabry, 2024): see `amortvi.importance.pareto_smoothed`.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amortvi._util.checks import positive_int
from amortvi._util.lazy import pandas as pd
from amortvi._util.random import random_state
from amortvi.errors import AmortviWarning, OptionError
from amortvi.importance import effective_sample_size, k_hat_threshold, pareto_smoothed
from amortvi.inference import AmortizedVI
from amortvi.posterior.evaluation import weigh
from amortvi.posterior.importance_sampling import Weighed

__all__ = ["Evidence", "evidence"]


@dataclass(frozen=True, eq=False, repr=False)
class Evidence:
    """What the log weights of ``K`` draws say of ``log p(x)`` of each of ``N`` observations.

    All are in double precision. An observation with a weight that is no number has NaN, a k-hat of ``inf`` and an effective
    sample size of zero.

    Args:
        log_evidence: the log of the mean weight in nats, ``(N,)``; on average below ``log p(x)``.
        standard_error: the Monte Carlo standard error of `log_evidence` in nats, ``(N,)``. It is too small, without limit,
            where an observation is not `reliable`; and rough from about 0.3 on, where the logarithm is not linear any more.
        smoothed: the log of the mean Pareto-smoothed weight in nats, ``(N,)``: less noise for little bias.
        elbo: the mean log weight in nats, ``(N,)``.
        elbo_se: its Monte Carlo standard error in nats, ``(N,)``.
        k_hat: the estimated shape of the tail of the weights, ``(N,)``; see `amortvi.importance.pareto_smoothed`.
        effective_sample_size: how many equally weighted draws the ``K`` are worth, ``(N,)``.
        draws: ``K``.
        index: the user's labels of the observations, where there are any.
    """

    log_evidence: Tensor
    standard_error: Tensor
    smoothed: Tensor
    elbo: Tensor
    elbo_se: Tensor
    k_hat: Tensor
    effective_sample_size: Tensor
    draws: int
    index: Any | None = None

    @property
    def threshold(self) -> float:
        """The k-hat below which estimates from so many draws can be trusted."""
        return k_hat_threshold(self.draws)

    @property
    def reliable(self) -> Tensor:
        """Whether the estimates of an observation can be trusted: k-hat is below the threshold, ``(N,)``."""
        return self.k_hat < self.threshold

    def to_frame(self) -> pd.DataFrame:
        """Return a row an observation; the columns are the fields, `reliable` and ``ess``, the effective sample size."""
        columns = {
            "log_evidence": self.log_evidence,
            "standard_error": self.standard_error,
            "smoothed": self.smoothed,
            "elbo": self.elbo,
            "elbo_se": self.elbo_se,
            "k_hat": self.k_hat,
            "ess": self.effective_sample_size,
            "reliable": self.reliable,
        }
        return pd.DataFrame({name: value.numpy() for name, value in columns.items()}, index=self.index)

    def __len__(self) -> int:
        return self.log_evidence.shape[0]

    def __str__(self) -> str:
        error = float(self.standard_error.square().sum().sqrt()) / len(self)
        share = float(self.reliable.double().mean())
        return (
            f"Evidence of {len(self)} observation{'s' * (len(self) != 1)} from {self.draws} draws of each: mean log evidence "
            f"{float(self.log_evidence.mean()):.3f} ± {error:.3f} nats (Monte Carlo), {share:.0%} reliable (k-hat below "
            f"{self.threshold:.2f}), median k-hat {float(self.k_hat.median()):.2f}, median effective sample size "
            f"{float(self.effective_sample_size.median()):.0f}."
        )

    __repr__ = __str__


def evidence(vi: AmortizedVI, x: Any, *, draws: int = 1000, seed: int | None = None) -> Evidence:
    """Estimate ``log p(x)`` of each observation by importance sampling from its posterior.

    The better the posterior, the fewer draws it takes: `AmortizedVI.refine` gives better ones than the encoder. Memory is
    bounded by the weights of one observation, or of a chunk of them.

    Args:
        vi: a fitted estimator.
        x: observations, as for `AmortizedVI.fit`, or a `Posterior` to draw from, of any family.
        draws: ``K``, draws of each observation, at least 2; from 21 on there is a k-hat.
        seed: reproduces the draws and leaves the caller's random state as it was.

    Returns:
        The estimates, with what tells whether to trust them; `Evidence.to_frame` has a row an observation.

    Raises:
        NotFittedError: the guide has not seen data yet.
        DataError: the observations cannot be used.
        OptionError: ``draws`` is not an integer of at least 2.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.5], [0.3, 1.0]]), scale=0.5)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").fit(x, epochs=5, progress=False, seed=0)
        >>> found = avi.evidence(vi, vi.refine(x), seed=0)
        >>> bool((found.log_evidence - model.log_evidence(x)).abs().max() < 0.01), bool(found.reliable.all())
        (True, True)
    """
    count = positive_int("draws", draws)
    if count < 2:
        raise OptionError("draws must be at least 2, for weights to differ; got 1.")
    posterior = vi.posterior(x)
    with random_state(seed, vi.device):
        found = weigh(vi.generative, posterior, count, _estimates)
    result = Evidence(**found, draws=count, index=posterior.index)
    _warn(result)
    return result


def _estimates(weighed: Weighed) -> dict[str, Tensor]:
    """Return the fields of `Evidence` for ``B`` observations, ``(B,)`` each."""
    log_weight = weighed.log_weight
    draws = log_weight.shape[0]
    unknown = ~(log_weight.amax(0) < torch.inf)  # NaN, or infinite
    log_weight = log_weight.masked_fill(unknown, -torch.inf)
    size = effective_sample_size(log_weight)
    smoothed = pareto_smoothed(log_weight)
    elbo = log_weight.mean(0)
    spread = log_weight.std(0).masked_fill(elbo == -torch.inf, torch.inf)
    estimates = {
        "log_evidence": log_weight.logsumexp(0) - math.log(draws),
        "standard_error": ((draws / size - 1).clamp(min=0.0) / (draws - 1)).sqrt(),  # zero may come out a little below
        "smoothed": smoothed.log_weights.logsumexp(0) - math.log(draws),
        "elbo": elbo,
        "elbo_se": spread / math.sqrt(draws),
    }
    known = {name: value.masked_fill(unknown, math.nan) for name, value in estimates.items()}
    return {**known, "k_hat": smoothed.k_hat, "effective_sample_size": size}


def _warn(found: Evidence) -> None:
    bad = ~found.log_evidence.isfinite()
    if bad.any():
        position = int(bad.nonzero()[0])
        label = position if found.index is None else found.index[position]
        warnings.warn(
            f"the evidence of {int(bad.sum())} of {len(found)} observations is not finite, first that of {label!r}: the "
            f"log-probability of the model or of the posterior is NaN or infinite for a draw, or the model gives all draws a "
            f"probability of zero. to_frame() shows which; look at what the model does with extreme latents.",
            AmortviWarning,
            stacklevel=3,
        )
