"""Posteriors of given observations, computed chunk by chunk."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.linalg import LinAlgError  # type: ignore[attr-defined]  # public, but torch does not list it

from amortvi._util.modes import evaluation_mode
from amortvi._util.text import html_summary
from amortvi.data import Batch, Chunk, Observations, TensorObservations, map_chunks
from amortvi.data.selection import Rows, positions, subset
from amortvi.errors import DataError, NonFiniteError, quoted
from amortvi.families import Family
from amortvi.model import LatentVector, Model
from amortvi.posterior.importance_sampling import WeightedDraws, weighted_draws
from amortvi.posterior.network import InferenceNetwork
from amortvi.posterior.non_finite import failing_rows, listed, parameters_not_finite

__all__ = ["ChunkedPosterior", "Compute"]

Compute = Callable[[Chunk, Distribution], Mapping[str, Tensor]]
"""Takes a chunk of observations with their posteriors; returns tensors by name."""


class ChunkedPosterior:
    """``q(z | x)`` for each of ``N`` observations, with loops over them in bounded memory; the base of `Posterior`."""

    def __init__(
        self, model: Model, network: InferenceNetwork, observations: Observations, device: torch.device
    ) -> None:
        self.model = model
        self.network = network
        self.observations = observations
        self.device = device

    @property
    def latents(self) -> LatentVector:
        """The latent sites of one observation, and how they form one unconstrained vector of size ``D``."""
        return self.model.latents

    @property
    def family(self) -> Family:
        """The family of the posteriors."""
        return self.network.family

    @property
    def label(self) -> str:
        """The name under which tables list the family."""
        return self.network.label

    @property
    def index(self) -> Any | None:
        """The user's labels of the observations, if any."""
        return self.observations.index

    @property
    def size(self) -> int | None:
        """The number of observations, or ``None`` if it is unknown until all of them have been read."""
        return self.observations.size

    def __len__(self) -> int:
        return sum(batch.size for batch in self.observations.batches()) if self.size is None else self.size

    def __repr__(self) -> str:
        shapes = {site.name: site.shape for site in self.latents.sites}
        shapes |= {site.name: site.shape for site in self.model.structure.globals}
        sites = ", ".join(f"{name}: {tuple(shape)}" for name, shape in shapes.items())
        number = "observations" if self.size is None else f"{self.size} observation{'s' * (self.size != 1)}"
        return f"{type(self).__name__}({type(self.family).__name__}, {number}, {sites})"

    def _repr_html_(self) -> str:
        rows = [(site.name, tuple(site.shape), "") for site in self.latents.sites]
        rows += [(site.name, tuple(site.shape), "global") for site in self.model.structure.globals]
        return html_summary(
            type(self).__name__,
            {"family": self.label, "observations": "unknown number" if self.size is None else f"{self.size:,}"},
            header=["site", "shape", ""],
            rows=rows,
        )

    def select(self, rows: Rows) -> Self:
        """Return the posterior of some of the observations.

        Args:
            rows: an integer, several integers (negative ones count from the end), a slice, or a boolean mask with one entry per
                observation.

        Raises:
            DataError: nothing is selected, a position is out of range, or the length of the mask is wrong.
        """
        selected = copy.copy(self)
        selected.observations = subset(self.observations, positions(rows, len(self)))
        return selected

    def in_memory(self) -> Self:
        """Return the posterior with its observations read once and kept in memory."""
        if self.observations.in_memory:
            return self
        loaded, source = copy.copy(self), self.observations
        loaded.observations = TensorObservations(source.as_batch(), source.name, source.index)
        return loaded

    def check_same_observations(self, other: ChunkedPosterior) -> None:
        """Raise `DataError` if the two posteriors are known, without reading data from disk, to be of different observations."""
        ours, theirs = self.observations, other.observations
        same = ours.size == theirs.size or None in (ours.size, theirs.size)
        if same and ours.in_memory and theirs.in_memory:
            mine, given = dict(ours.as_batch().named()), dict(theirs.as_batch().named())
            same = mine.keys() == given.keys()
            same = same and all(torch.equal(value, given[name].to(value)) for name, value in mine.items())
        if not same:
            raise DataError("posterior is not of the observations x: pass both for the same observations, or omit x.")

    def first(self) -> Batch:
        """Return one observation, on the device."""
        return self.observations.first(1).take(slice(0, 1)).to(self.device)

    def map_chunks(
        self,
        compute: Compute,
        *,
        draws: int = 1,
        observation_dim: int = 0,
        probe: Compute | None = None,
        check_data: bool = False,
    ) -> dict[str, Tensor]:
        """Apply ``compute`` to chunks of observations with their posteriors, and collect the results.

        Model and network run in evaluation mode, without gradients; see `Model.inference_mode` and `amortvi.data.map_chunks`. The
        model has the medians of the global latents, unless ``compute`` gives it others.

        Args:
            compute: takes a chunk with its posteriors, batch shape ``(B,)`` and event shape ``(D,)``.
            draws: the number of draws for each observation.
            observation_dim: the dimension of the results that indexes observations.
            probe: run instead of ``compute`` to measure memory.
            check_data: whether to raise `DataError` if the data are outside the support of the model's likelihood.

        Raises:
            NonFiniteError: the parameters of a posterior are NaN or infinite, or a matrix cannot be factorized.
        """

        def run(chunk: Chunk) -> Mapping[str, Tensor]:
            if not self.observations.in_memory:  # those in memory were checked at once, when they were given
                self.network.check_labels(chunk.batch)
            if check_data:
                self.model.check_data(chunk.batch)
            return self._apply(compute, chunk)

        def measure(chunk: Chunk) -> object:
            return self._apply(probe or compute, chunk)

        with self.model.inference_mode(self.network.global_medians()), evaluation_mode(self.network):
            return map_chunks(
                self.observations, run, device=self.device, draws=draws, observation_dim=observation_dim, probe=measure
            )

    def _apply(self, compute: Compute, chunk: Chunk) -> Mapping[str, Tensor]:
        """Return the results for a chunk, or raise `NonFiniteError` if the parameters of a posterior are not finite."""
        context = self.network.context(chunk.batch)
        if not bool(context.isfinite().all()):
            raise self._parameters_error()
        try:
            q = self.family(context)
            bad = parameters_not_finite(q)
            if bad is not None and bool(bad.any()):
                raise self._parameters_error()
            return compute(chunk, q)
        except LinAlgError as error:
            raise self._parameters_error(error, chunk) from error

    def not_finite(self) -> Tensor:
        """Return which observations have no posterior with finite parameters, ``(N,)``.

        For these, every computation raises `NonFiniteError`; ``posterior.select(~posterior.not_finite())`` leaves them out.
        """

        def compute(chunk: Chunk) -> Mapping[str, Tensor]:
            return {"failing": failing_rows(self.family, self.network.context(chunk.batch))}

        with self.model.inference_mode(), evaluation_mode(self.network):
            return map_chunks(self.observations, compute, device=self.device)["failing"]

    def _parameters_error(self, error: Exception | None = None, chunk: Chunk | None = None) -> NonFiniteError:
        """Return the error for posteriors without finite parameters, or for a matrix that cannot be factorized."""
        bad = self.not_finite()
        if error is not None and chunk is not None and not bool(bad.any()):  # the computation fails, not the parameters
            return NonFiniteError(
                f"a matrix of a posterior, at a position from {chunk.rows.start} to {chunk.rows.stop - 1}, cannot be factorized: "
                f"{quoted(error)}"
            )
        return NonFiniteError(
            f"the posterior is not finite for {listed(bad, self.index)} of {self.observations.name}: the encoder returns NaN, "
            f"infinity or numbers so large that {type(self.family).__name__} overflows. Check these observations for extreme "
            f"values, scale the data that the encoder sees, or leave the observations out with "
            f"posterior.select(~posterior.not_finite()). If there is nothing special about them, the encoder has diverged: train "
            f"it again with a smaller lr."
        )

    def importance_sample(
        self,
        draws: int,
        reduce: Callable[[WeightedDraws], Mapping[str, Tensor]],
        *,
        theta: Mapping[str, Tensor] | None = None,
        observation_dim: int = 0,
        keep_draws: bool = False,
    ) -> dict[str, Tensor]:
        """Draw from each posterior, compute the log weights, and reduce them chunk by chunk.

        Args:
            draws: ``K``, the number of draws for each observation.
            reduce: takes the weighted draws of a chunk of observations; returns tensors by name.
            theta: the global latents of each draw, ``(K, *shape)``; by default their medians for all draws.
            observation_dim: the dimension of these tensors that indexes observations.
            keep_draws: whether ``reduce`` needs the draws themselves.

        Raises:
            DataError: a value is outside the support of the model's likelihood.
        """
        return self.map_chunks(
            lambda chunk, q: reduce(weighted_draws(self.model, chunk, q, theta=theta, keep_draws=keep_draws)),
            probe=self.probe_weights,
            draws=draws,
            observation_dim=observation_dim,
            check_data=True,
        )

    def probe_weights(self, chunk: Chunk, q: Distribution) -> Mapping[str, Tensor]:
        """Compute one log weight per observation, to measure the memory that importance sampling needs."""
        return {"log_weight": weighted_draws(self.model, chunk, q).log_weight}
