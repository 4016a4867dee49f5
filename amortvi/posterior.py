"""The posterior of given observations, computed in chunks when something of it is asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._checks import positive_int
from amortvi._chunks import rows_at_once
from amortvi._modes import random_state
from amortvi.errors import DataError, FamilyError
from amortvi.guide import AmortizedGuide
from amortvi.latents import LatentVector
from amortvi.marginals import DRAWS, QUADRATURE_NODES, site_moments, site_quantiles
from amortvi.observations import Batch, Observations

__all__ = ["Posterior"]


class Posterior:
    """``q(z | x)`` for each of some observations.

    It holds the observations and a copy of the guide as it was, so later training does not change it. Nothing is
    computed before it is asked for, and then a chunk of observations at a time: beyond the answer itself, memory does not
    grow with their number. Values of a latent site come with the observations first: ``N`` observations, then the sizes
    of nested plates, then the shape of one value, all in the site's own support. They are on the CPU.

    Args:
        guide: a guide that is set up; it is copied.
        observations: the observations.
        device: where the guide computes.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").fit(x, epochs=1, progress=False, seed=0)
        >>> posterior = vi.posterior(x)
        >>> posterior.mean["z"].shape, posterior.sample(7, seed=1)["z"].shape
        (torch.Size([20, 2]), torch.Size([7, 20, 2]))
    """

    def __init__(self, guide: AmortizedGuide, observations: Observations, device: torch.device) -> None:
        self._guide = copy_of(guide)
        self._observations = observations
        self._device = device

    @property
    def latents(self) -> LatentVector:
        """The latent sites of one observation, and how they make one unconstrained vector of size ``D``."""
        return self._guide.latents

    @property
    def index(self) -> Any | None:
        """The user's labels of the observations, where there are any."""
        return self._observations.index

    def __len__(self) -> int:
        size = self._observations.size
        return sum(batch.size for batch in self._observations.batches()) if size is None else size

    def __repr__(self) -> str:
        sites = ", ".join(f"{site.name}: {tuple(site.shape)}" for site in self.latents.sites)
        return f"Posterior({type(self._guide.family).__name__}, observations={self._observations.size}, {sites})"

    def chunks(self, numbers_per_observation: int = 1) -> Iterator[tuple[Batch, Distribution]]:
        """Go through the observations.

        Args:
            numbers_per_observation: how many numbers the caller makes of each, beside the parameters.

        Returns:
            Batches, on the device of the guide, with their posteriors: batch shape ``(B,)``, event shape ``(D,)``.
        """
        heaviest = max(numbers_per_observation, self._guide.family.num_parameters, self._guide.family.context_features)
        limit = rows_at_once(heaviest)
        with torch.no_grad():
            for batch in self._observations.batches(self._observations.batch_size_up_to(limit)):
                for start in range(0, batch.size, limit):
                    part = batch.take(slice(start, start + limit)).to(self._device)
                    yield part, self._guide.get_posterior(*part.args, **part.kwargs)

    def _gather(
        self,
        numbers_per_observation: int,
        compute: Callable[[Distribution], Mapping[str, Tensor]],
        observation_dim: int = 0,
    ) -> dict[str, Tensor]:
        """Collect what ``compute`` makes of each chunk; ``observation_dim`` is where its results have them."""
        parts: dict[str, list[Tensor]] = {}
        for _, posterior in self.chunks(numbers_per_observation):
            for name, value in compute(posterior).items():
                parts.setdefault(name, []).append(value.cpu())
        return {name: torch.cat(values, dim=observation_dim) for name, values in parts.items()}

    @property
    def mean(self) -> dict[str, Tensor]:
        """The mean of each site, ``(N, *nested, *event)``."""
        return self._gather(self._moment_size(), lambda q: {k: v[0] for k, v in self._moments(q).items()})

    @property
    def std(self) -> dict[str, Tensor]:
        """The standard deviation of each site, ``(N, *nested, *event)``."""
        return self._gather(self._moment_size(), lambda q: {k: v[1] for k, v in self._moments(q).items()})

    def _moments(self, posterior: Distribution) -> dict[str, tuple[Tensor, Tensor]]:
        return site_moments(self.latents, self._guide.family, posterior)

    def _moment_size(self) -> int:
        """How many numbers the moments of one observation take on the way."""
        family, sites = self._guide.family, self.latents.sites
        if family.has_closed_form_moments and all(site.is_unconstrained for site in sites):
            return self.latents.dim
        exact = family.has_gaussian_marginals and all(site.is_elementwise for site in sites)
        return self.latents.dim * (QUADRATURE_NODES if exact else DRAWS)

    @property
    def median(self) -> dict[str, Tensor]:
        """The median of each coordinate of each site, ``(N, *nested, *event)``."""
        return {name: value[0] for name, value in self.quantiles([0.5]).items()}

    def quantiles(self, quantiles: Sequence[float]) -> dict[str, Tensor]:
        """Return quantiles of each coordinate of each site.

        Args:
            quantiles: probabilities strictly between 0 and 1.

        Returns:
            For each site ``(len(quantiles), N, *nested, *event)``.

        Raises:
            OptionError: a probability is not strictly between 0 and 1.
        """
        exact = self._guide.family.has_gaussian_marginals and all(s.is_elementwise for s in self.latents.sites)
        return self._gather(
            self.latents.dim * (len(quantiles) if exact else DRAWS),
            lambda q: site_quantiles(self.latents, self._guide.family, q, quantiles),
            observation_dim=1,
        )

    @property
    def covariance(self) -> Tensor:
        """The covariance of the unconstrained latent vector, ``(N, D, D)``; ``latents.labels`` names its rows.

        Raises:
            FamilyError: the family has no covariance in closed form; take the covariance of draws.
        """
        if not self._guide.family.has_closed_form_moments:
            raise FamilyError(
                f"{type(self._guide.family).__name__} has no covariance in closed form: estimate it from sample(1000)."
            )
        size = self.latents.dim**2
        return self._gather(size, lambda q: {"covariance": q.covariance_matrix})["covariance"]  # type: ignore[attr-defined]

    @property
    def correlation(self) -> Tensor:
        """The correlation matrices of the unconstrained latent vector, ``(N, D, D)``.

        Raises:
            FamilyError: the family has no covariance in closed form.
        """
        covariance = self.covariance
        std = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
        return covariance / std.unsqueeze(-1) / std.unsqueeze(-2)

    def sample(self, draws: int, *, seed: int | None = None) -> dict[str, Tensor]:
        """Draw from the posterior of every observation.

        Args:
            draws: how many draws of each.
            seed: reproduces them and leaves the caller's random state as it was; ``None`` goes on with that state.

        Returns:
            For each site ``(draws, N, *nested, *event)``.

        Raises:
            OptionError: ``draws`` is not a positive integer.
        """
        shape = torch.Size([positive_int("draws", draws)])
        with random_state(seed, self._device):
            return self._gather(
                draws * self.latents.dim,
                lambda q: self.latents.constrain(q.sample(shape))[0],
                observation_dim=1,
            )

    def log_prob(self, values: Mapping[str, Tensor]) -> Tensor:
        """Return the log density of given values of the latents, in nats.

        Args:
            values: for each site ``(*S, N, *nested, *event)`` with any sample shape ``*S``.

        Returns:
            ``log q(z | x)`` in the support of the sites (the Jacobian of the transforms counted in), ``(*S, N)``.

        Raises:
            DataError: a site is missing or unknown, its shape does not fit, or a value is outside its support.
        """
        vector, log_det = self.latents.unconstrain(values)
        if vector.shape[-2] != len(self):
            raise DataError(f"values are of {vector.shape[-2]} observations; the posterior is of {len(self)}.")
        parts, start = [], 0
        draws = vector.shape[:-2].numel()
        for batch, posterior in self.chunks(draws * self.latents.dim):
            part = vector[..., start : start + batch.size, :].to(self._device)
            parts.append(posterior.log_prob(part).cpu())
            start += batch.size
        return torch.cat(parts, dim=-1) - log_det


def copy_of(guide: AmortizedGuide) -> AmortizedGuide:
    """Return a copy of a guide in evaluation mode, without gradients and without the model."""
    model = guide.__dict__["model"]
    # The model is not needed to evaluate the guide, and may be large: the copy shares it.
    copied = copy.deepcopy(guide, {id(model): model})
    return copied.eval().requires_grad_(False)
