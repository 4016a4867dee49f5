"""The posterior of given observations: moments, quantiles, draws and densities, computed on request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._util.checks import positive_int
from amortvi._util.lazy import pandas as pd
from amortvi._util.random import random_state
from amortvi.data import Chunk
from amortvi.errors import DataError, FamilyError
from amortvi.families import covariance
from amortvi.posterior.chunked import ChunkedPosterior
from amortvi.posterior.importance_sampling import check_proposals, resample_chunk, warn_of_unreliable_draws
from amortvi.posterior.moments import check_quantiles, site_moments, site_quantiles, site_summary

__all__ = ["Posterior"]

_ESTIMATES = 0
"""The seed of the draws from which quantities without a closed form are estimated, so that they are reproducible."""


class Posterior(ChunkedPosterior):
    """``q(z | x)`` for each of ``N`` observations.

    It refers to the observations (to the user's own array if no conversion was needed: do not modify it). Everything is
    computed on request and in chunks: beyond the result itself, memory does not grow with ``N``. The values of a latent site
    have shape ``(N, *nested, *event)``: observations, nested plates, and one value in the site's own support. All results are
    on the CPU.

    Args:
        model: the generative model, set up.
        network: the inference network that gives the posteriors.
        observations: the observations.
        device: where model and network are.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").setup(x, seed=0)
        >>> posterior = vi.posterior(x)
        >>> posterior
        Posterior(FullCovariance, 20 observations, z: (2,))
        >>> posterior.mean["z"].shape, posterior.sample(7, seed=1)["z"].shape
        (torch.Size([20, 2]), torch.Size([7, 20, 2]))
        >>> posterior.select([3, 5]).covariance.shape
        torch.Size([2, 2, 2])
    """

    @property
    def mean(self) -> dict[str, Tensor]:
        """The mean of each site, ``(N, *nested, *event)``."""
        return self._estimate(lambda q: {name: mean for name, (mean, _) in site_moments(self.latents, q).items()})

    @property
    def std(self) -> dict[str, Tensor]:
        """The standard deviation of each site, ``(N, *nested, *event)``."""
        return self._estimate(lambda q: {name: std for name, (_, std) in site_moments(self.latents, q).items()})

    @property
    def median(self) -> dict[str, Tensor]:
        """The median of each element of each site, ``(N, *nested, *event)``."""
        return {name: value[0] for name, value in self.quantiles([0.5]).items()}

    def quantiles(self, quantiles: Sequence[float]) -> dict[str, Tensor]:
        """Return quantiles of each element of each site.

        Args:
            quantiles: probabilities strictly between 0 and 1.

        Returns:
            For each site ``(len(quantiles), N, *nested, *event)``.

        Raises:
            OptionError: a probability is not strictly between 0 and 1.
        """
        levels = check_quantiles(quantiles)
        return self._estimate(lambda q: site_quantiles(self.latents, q, levels), observation_dim=1)

    def _estimate(
        self, compute: Callable[[Distribution], Mapping[str, Tensor]], observation_dim: int = 0
    ) -> dict[str, Tensor]:
        with random_state(_ESTIMATES, self.device):
            return self.map_chunks(lambda _, q: compute(q), observation_dim=observation_dim)

    @property
    def covariance(self) -> Tensor:
        """The covariance of the unconstrained latent vector, ``(N, D, D)``; ``latents.labels`` names its coordinates.

        Raises:
            FamilyError: the covariance is not known in closed form; use that of draws.
        """

        def compute(q: Distribution) -> dict[str, Tensor]:
            found = covariance(q)
            if found is None:
                raise FamilyError(
                    f"the covariance of a {type(self.family).__name__} posterior is not known in closed form: estimate it from "
                    f"draws, sample(1000)."
                )
            return {"covariance": found}

        return self._estimate(compute)["covariance"]

    @property
    def correlation(self) -> Tensor:
        """The correlation matrices of the unconstrained latent vector, ``(N, D, D)``.

        Raises:
            FamilyError: the covariance is not known in closed form.
        """
        found = self.covariance
        std = found.diagonal(dim1=-2, dim2=-1).sqrt()
        return found / std.unsqueeze(-1) / std.unsqueeze(-2)

    def sample(
        self, draws: int, *, resample: bool = False, proposals: int | None = None, seed: int | None = None
    ) -> dict[str, Tensor]:
        """Draw from the posterior of each observation.

        Args:
            draws: the number of draws for each observation.
            resample: whether to draw from the *exact* posterior, as far as ``q`` allows: ``proposals`` draws from ``q`` are
                weighted with the current model, and ``draws`` of them are chosen, with replacement, in proportion to their
                Pareto-smoothed weights. A warning is issued if k-hat shows that the weights of some observations are
                unreliable.
            proposals: the number of draws from ``q`` from which to resample; by default ten per draw, but at least 1,000.
            seed: reproduces the draws and leaves the caller's random state untouched; ``None`` uses that state.

        Returns:
            For each site ``(draws, N, *nested, *event)``.

        Raises:
            OptionError: ``draws`` is not a positive integer, or ``proposals`` is smaller than ``draws`` or given without
                ``resample``.
            NonFiniteError: with ``resample``, an observation has a weight that is NaN or infinite, or no positive weight.
        """
        count = positive_int("draws", draws)
        number = check_proposals(count, resample, proposals)
        k_hats: list[Tensor] = []

        def compute(chunk: Chunk, q: Distribution) -> Mapping[str, Tensor]:
            if number is None:
                vector = torch.cat([q.sample(torch.Size([len(span)])) for span in chunk.draw_spans()])
            else:
                vector, k_hat = resample_chunk(self.model, chunk, q, count)
                k_hats.append(k_hat)
            return self.latents.constrain(vector)[0]

        with random_state(seed, self.device):
            found = self.map_chunks(
                compute,
                draws=number or count,
                observation_dim=1,
                probe=None if number is None else self.probe_weights,
                check_data=number is not None,
            )
        if number is not None:
            warn_of_unreliable_draws(torch.cat(k_hats), number)
        return found

    def log_prob(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the log density of given values of the latents, in nats.

        Args:
            values: for each site ``(*S, N, *nested, *event)`` with any sample shape ``*S``.

        Returns:
            ``log q(z | x)`` in the support of the sites (the Jacobian of the transforms included), ``(*S, N)``.

        Raises:
            DataError: a site is missing or unknown, its shape is wrong, or a value is outside its support.
        """
        *sample_shape, observations = self.latents.leading_shape(values)
        if observations != len(self):
            raise DataError(f"values are of {observations} observations, but the posterior is of {len(self)}.")
        vector, log_det = self.latents.unconstrain(values)

        def compute(chunk: Chunk, q: Distribution) -> dict[str, Tensor]:
            part = vector.narrow(-2, chunk.rows.start, len(chunk.rows)).to(self.device)
            return {"log_prob": q.log_prob(part)}

        log_prob = self.map_chunks(
            compute,
            draws=torch.Size(sample_shape).numel(),
            observation_dim=len(sample_shape),
            probe=lambda _, q: {"log_prob": q.log_prob(q.sample())},
        )
        return log_prob["log_prob"] - log_det.cpu()

    def to_frame(self, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> pd.DataFrame:
        """Return a summary with one row for each observation and each element of its latents.

        Args:
            quantiles: probabilities strictly between 0 and 1.

        Returns:
            Columns ``mean``, ``std`` and one for each quantile, such as ``5%``. The index consists of the observation (the
            user's label, if there is one) and the element, such as ``z[0]``.

        Raises:
            OptionError: a probability is not strictly between 0 and 1.
        """
        levels = check_quantiles(quantiles)
        table = self._estimate(lambda q: {"table": site_summary(self.latents, q, levels)})["table"]
        labels = [label for site in self.latents.sites for label in site.labels]
        index = range(table.shape[0]) if self.index is None else self.index
        name = getattr(index, "name", None) or self.model.structure.plate
        return pd.DataFrame(
            table.flatten(0, 1).numpy(),
            index=pd.MultiIndex.from_product([index, labels], names=[name, "latent"]),
            columns=["mean", "std", *(f"{100 * level:g}%" for level in levels)],
        )
