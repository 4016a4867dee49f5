"""The posterior of given observations, computed in chunks when something of it is asked for."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from amortvi._checks import positive_int
from amortvi._chunks import Gathered, rows_at_once
from amortvi._modes import random_state
from amortvi.errors import DataError, FamilyError, OptionError
from amortvi.families import Family
from amortvi.generative import GenerativeModel
from amortvi.latents import LatentVector
from amortvi.marginals import Workload, checked_quantiles, site_moments, site_quantiles, site_summary
from amortvi.observations import Batch, Observations, TensorObservations
from amortvi.observations.pieces import numbers_per_row, pieces
from amortvi.observations.selection import Rows, positions, selected
from amortvi.posterior_sources import PosteriorSource
from amortvi.prototype import Prototype
from amortvi.resampling import proposals_or_none, resampled

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Posterior"]

_ESTIMATES = 0
"""The seed of the draws behind a moment or quantile that has no closed form: asked for again, it is the same."""


class Posterior:
    """``q(z | x)`` for each of some observations.

    It holds the observations (the user's own array where that needs no conversion: do not change it meanwhile) and a copy
    of what answers for them, so later training does not change it. Nothing is computed before it is asked for, and then a
    chunk of observations at a time: beyond the answer itself, memory does not grow with their number. Values of a latent
    site come with the observations first: ``N`` observations, then the sizes of nested plates, then the shape of one value,
    all in the site's own support. They are on the CPU.

    Args:
        prototype: the structure of the model.
        source: gives the posteriors of a batch.
        observations: the observations.
        device: where the source computes.
        model: the generative model, where draws are to be resampled with it; it is not copied.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").fit(x, epochs=1, progress=False, seed=0)
        >>> posterior = vi.posterior(x)
        >>> posterior
        Posterior(FullCovariance, 20 observations, z: (2,))
        >>> posterior.mean["z"].shape, posterior.sample(7, seed=1)["z"].shape
        (torch.Size([20, 2]), torch.Size([7, 20, 2]))
        >>> posterior.select([3, 5]).covariance.shape
        torch.Size([2, 2, 2])
    """

    def __init__(
        self,
        prototype: Prototype,
        source: PosteriorSource,
        observations: Observations,
        device: torch.device,
        model: GenerativeModel | None = None,
    ) -> None:
        self.prototype = prototype
        self.observations = observations
        self.source = source
        self.device = device
        self.model = model
        self._width: int | None = None

    @property
    def latents(self) -> LatentVector:
        """The latent sites of one observation, and how they make one unconstrained vector of size ``D``."""
        return self.prototype.latents

    @property
    def family(self) -> Family:
        """The family of the posteriors."""
        return self.source.family

    @property
    def label(self) -> str:
        """The name under which tables show the family."""
        return self.source.label

    @property
    def index(self) -> Any | None:
        """The user's labels of the observations, where there are any."""
        return self.observations.index

    @property
    def size(self) -> int | None:
        """The number of observations, or ``None`` where only reading all of them would tell."""
        return self.observations.size

    def __len__(self) -> int:
        return sum(batch.size for batch in self.observations.batches()) if self.size is None else self.size

    def __repr__(self) -> str:
        sites = ", ".join(f"{site.name}: {tuple(site.shape)}" for site in self.latents.sites)
        number = "observations" if self.size is None else f"{self.size} observation{'s' * (self.size != 1)}"
        return f"Posterior({type(self.family).__name__}, {number}, {sites})"

    def select(self, rows: Rows) -> Posterior:
        """Return the posterior of some of the observations.

        Args:
            rows: their positions as integers (negative ones count from the end; a single integer selects one), a slice,
                or a boolean mask with an entry for each observation.

        Raises:
            DataError: nothing is selected, a position is out of range, or a mask has not the number of observations.
        """
        chosen = copy.copy(self)
        chosen.observations = selected(self.observations, positions(rows, len(self)))
        return chosen

    def in_memory(self) -> Posterior:
        """Return the same with the observations read once and held; where they are held already, itself."""
        if self.observations.in_memory:
            return self
        held = copy.copy(self)
        read = self.observations
        held.observations = TensorObservations(read.as_batch(), read.name, read.index)
        return held

    def first(self) -> Batch:
        """Return one observation, on the device of the source, to try something on."""
        return self.observations.first(1).take(slice(0, 1)).to(self.device)

    def of(self, batch: Batch) -> Distribution:
        """Return the posteriors of a batch that is on the device: batch shape ``(B,)``, event shape ``(D,)``."""
        return self.source(batch)

    def chunks(self, numbers_per_observation: int = 1) -> Iterator[tuple[Batch, Distribution]]:
        """Go through the observations.

        Args:
            numbers_per_observation: how many numbers the caller makes of each, beside what the encoder does.

        Returns:
            Batches, on the device of the source, with their posteriors of batch shape ``(B,)`` and event shape ``(D,)``.
        """
        with torch.no_grad():
            if self._width is None:
                self._width = numbers_per_row(self.of, self.first())
            limit = rows_at_once(max(numbers_per_observation, self._width))
            for batch in pieces(self.observations, limit, self.device):
                yield batch, self.of(batch)

    def _gather(
        self,
        numbers_per_observation: int,
        compute: Callable[[Distribution], Mapping[str, Tensor]],
        observation_dim: int = 0,
    ) -> dict[str, Tensor]:
        """Collect what ``compute`` makes of each chunk; ``observation_dim`` is where its results have them."""
        gathered = Gathered(self.size, observation_dim)
        for _, posterior in self.chunks(numbers_per_observation):
            gathered.add(compute(posterior))
        return gathered.result()

    @property
    def mean(self) -> dict[str, Tensor]:
        """The mean of each site, ``(N, *nested, *event)``."""
        return self._moments(0)

    @property
    def std(self) -> dict[str, Tensor]:
        """The standard deviation of each site, ``(N, *nested, *event)``."""
        return self._moments(1)

    def _moments(self, which: int) -> dict[str, Tensor]:
        def compute(posterior: Distribution) -> dict[str, Tensor]:
            moments = site_moments(self.latents, self.family, posterior)
            return {name: both[which] for name, both in moments.items()}

        with self._estimates() as work:
            return self._gather(work.moment_numbers, compute)

    @contextlib.contextmanager
    def _estimates(self) -> Iterator[Workload]:
        """What moments and quantiles are computed in: where they need draws, these are their own."""
        work = Workload.of(self.latents, self.family)
        with random_state(_ESTIMATES if work.is_estimate else None, self.device):
            yield work

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
        quantiles = checked_quantiles(quantiles)
        with self._estimates() as work:
            return self._gather(
                work.quantile_numbers * len(quantiles),
                lambda q: site_quantiles(self.latents, self.family, q, quantiles),
                observation_dim=1,
            )

    @property
    def covariance(self) -> Tensor:
        """The covariance of the unconstrained latent vector, ``(N, D, D)``; ``latents.labels`` names its rows.

        Raises:
            FamilyError: the family has no covariance in closed form; take the covariance of draws.
        """
        return self._of_covariance(lambda covariance: covariance)

    @property
    def correlation(self) -> Tensor:
        """The correlation matrices of the unconstrained latent vector, ``(N, D, D)``.

        Raises:
            FamilyError: the family has no covariance in closed form.
        """

        def scaled(covariance: Tensor) -> Tensor:
            std = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
            return covariance / std.unsqueeze(-1) / std.unsqueeze(-2)

        return self._of_covariance(scaled)

    def _of_covariance(self, change: Callable[[Tensor], Tensor]) -> Tensor:
        if not self.family.has_closed_form_moments:
            raise FamilyError(
                f"{type(self.family).__name__} has no covariance in closed form: estimate it from sample(1000)."
            )
        size = self.latents.dim**2
        return self._gather(size, lambda q: {"": change(q.covariance_matrix)})[""]  # type: ignore[attr-defined]

    def sample(
        self, draws: int, *, resample: bool = False, proposals: int | None = None, seed: int | None = None
    ) -> dict[str, Tensor]:
        """Draw from the posterior of each observation.

        Args:
            draws: how many draws of each.
            resample: whether draws are to come from the *exact* posterior, as far as these posteriors allow: more are drawn,
                weighed with the model as it is now, and of them ``draws`` are chosen in proportion to their Pareto-smoothed
                weights. One draw may be chosen several times. There is a warning for observations whose k-hat says that the
                weights are not to be trusted.
            proposals: how many to resample from; by default ten for each draw, and 1,000 at least.
            seed: reproduces them and leaves the caller's random state as it was; ``None`` goes on with that state.

        Returns:
            For each site ``(draws, N, *nested, *event)``.

        Raises:
            OptionError: ``draws`` is not a positive integer; there are fewer proposals than draws, or proposals without
                ``resample``; or these posteriors were made without their model.
            NonFiniteError: with ``resample``, a draw has a weight that is no number, or all of an observation have none.
        """
        shape = torch.Size([positive_int("draws", draws)])
        number = proposals_or_none(shape[0], resample, proposals)
        with random_state(seed, self.device):
            if number is not None:
                if self.model is None:
                    raise OptionError(
                        "resample=True needs a Posterior that knows its model, as AmortizedVI.posterior returns."
                    )
                return resampled(self.model, self, shape[0], number)
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
        shape = self._leading_shape(values)
        gathered, start = Gathered(self.size, len(shape) - 1), 0
        for batch, posterior in self.chunks(shape[:-1].numel() * self.latents.dim):
            part = {name: value.narrow(len(shape) - 1, start, batch.size) for name, value in values.items()}
            vector, log_det = self.latents.unconstrain(part)
            gathered.add({"": posterior.log_prob(vector.to(self.device)).cpu() - log_det.cpu()})
            start += batch.size
        return gathered.result()[""]

    def _leading_shape(self, values: Mapping[str, Tensor]) -> torch.Size:
        """Return the ``(*S, N)`` that given values of the latents begin with."""
        sites = self.latents.sites
        fitting = isinstance(values, Mapping) and set(values) == {site.name for site in sites}
        fitting = fitting and all(isinstance(value, Tensor) for value in values.values())
        if not fitting or any(values[site.name].dim() <= len(site.shape) for site in sites):
            self.latents.unconstrain(values)  # whose error says what does not fit
        shapes = {site.name: values[site.name].shape[: values[site.name].dim() - len(site.shape)] for site in sites}
        first = next(iter(shapes.values()))
        if any(shape != first for shape in shapes.values()):
            listed = ", ".join(f"{name!r} has {tuple(shape)}" for name, shape in shapes.items())
            raise DataError(f"values must have the same draws and observations for each site; {listed}.")
        if first[-1] != len(self):
            raise DataError(f"values are of {first[-1]} observations; the posterior is of {len(self)}.")
        return first

    def to_frame(self, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> pd.DataFrame:
        """Return a summary: a row for each observation and each number of its latents.

        Args:
            quantiles: probabilities strictly between 0 and 1.

        Returns:
            Columns ``mean``, ``std`` and one for each quantile, such as ``5%``; the index has the observation, by the
            user's label where there is one, and the number, such as ``z[0]``.

        Raises:
            OptionError: a probability is not strictly between 0 and 1.
        """
        import pandas as pd  # imported where it is used: it would double the time that importing amortvi takes

        quantiles = checked_quantiles(quantiles)
        with self._estimates() as work:
            table = self._gather(
                work.moment_numbers + work.quantile_numbers * len(quantiles),
                lambda q: {"": site_summary(self.latents, self.family, q, quantiles)},
            )[""]
        labels = [label for site in self.latents.sites for label in labels_of(site.name, site.shape)]
        index = range(table.shape[0]) if self.index is None else self.index
        name = getattr(index, "name", None) or self.prototype.plate
        return pd.DataFrame(
            table.flatten(0, 1).numpy(),
            index=pd.MultiIndex.from_product([index, labels], names=[name, "latent"]),
            columns=["mean", "std", *(f"{100 * level:g}%" for level in quantiles)],
        )


def labels_of(name: str, shape: torch.Size) -> list[str]:
    """Return a label of each number of a site: its name, with the position where there is more than one dimension."""
    return [f"{name}[{', '.join(map(str, position))}]" if shape else name for position in np.ndindex(*shape)]
