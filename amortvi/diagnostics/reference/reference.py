"""Draws from the exact posterior by Hamiltonian Monte Carlo, for comparison with an approximate posterior."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from torch import Tensor

from amortvi._util.lazy import pandas as pd
from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.diagnostics.c2st import c2st as two_sample_test
from amortvi.diagnostics.reference.distances import Distances, distances
from amortvi.diagnostics.reference.nuts import NUTSOptions, chain_diagnostics, sample_chains
from amortvi.errors import AmortviWarning, DataError, OptionError
from amortvi.inference import AmortizedVI
from amortvi.io.arviz_layout import assemble
from amortvi.model import LatentVector, ModelStructure
from amortvi.posterior import Posterior

__all__ = ["Reference", "reference", "unconstrained_draws", "warn_of_unreliable_chains"]

_LARGEST_R_HAT = 1.01
_LEAST_ESS = 100
"""The least effective sample size per chain: with less, r-hat and ESS themselves are unreliable (Vehtari et al., 2021)."""


@dataclass(frozen=True, repr=False, eq=False)
class Reference:
    """Draws from the exact posterior of each of ``N`` observations, in several chains, with convergence diagnostics.

    Args:
        vector: the unconstrained latent vectors, ``(chains, draws, N, D)``.
        diverging: whether the trajectory of each draw diverged, ``(chains, draws, N)``.
        r_hat: the largest rank-normalized split r-hat of the latent coordinates, ``(N,)``.
        ess: the smallest effective sample size, of bulk or tail, of the latent coordinates, ``(N,)``.
        structure: the structure of the model.
        index: the user's labels of the observations, if any.
    """

    vector: Tensor
    diverging: Tensor
    r_hat: Tensor
    ess: Tensor
    structure: ModelStructure
    index: Any | None

    @property
    def latents(self) -> LatentVector:
        """The latent sites of one observation, and how they form one unconstrained vector of size ``D``."""
        return self.structure.latents

    @property
    def values(self) -> dict[str, Tensor]:
        """The draws of each site in its own support, ``(chains, draws, N, *nested, *event)``."""
        return self.latents.constrain(self.vector)[0]

    @property
    def divergences(self) -> Tensor:
        """The number of diverging trajectories, ``(N,)``."""
        return self.diverging.sum((0, 1))

    @property
    def reliable(self) -> Tensor:
        """Whether r-hat is at most 1.01 and the effective sample size at least 100 per chain, ``(N,)``."""
        return (self.r_hat <= _LARGEST_R_HAT) & (self.ess >= _LEAST_ESS * len(self.vector))

    def __repr__(self) -> str:
        chains, draws, observations, _ = self.vector.shape
        return (
            f"Reference({observations} observation{'s' * (observations != 1)}, {chains} chains of {draws} draws: r-hat up to "
            f"{float(self.r_hat.max()):.3f}, ess from {float(self.ess.min()):.0f}, {int(self.diverging.sum())} divergences)"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row per observation, with the columns ``r_hat``, ``ess`` and ``divergences``."""
        columns = {name: getattr(self, name).numpy() for name in ("r_hat", "ess", "divergences")}
        return pd.DataFrame(columns, index=self.index)

    def to_arviz(self) -> Any:
        """Return the draws for ArviZ, in the layout of `AmortizedVI.to_arviz`, with the group ``sample_stats`` (``diverging``).

        ArviZ can thus compare approximate and exact posterior as two models: with ArviZ 0.x
        ``az.plot_forest([vi.to_arviz(x), nuts.to_arviz()], model_names=["q", "NUTS"])``, with ArviZ 1.x
        ``az.plot_forest({"q": vi.to_arviz(x), "NUTS": nuts.to_arviz()})``.

        Returns:
            `arviz.InferenceData` with ArviZ 0.x, `xarray.DataTree` with ArviZ 1.x.
        """
        nested = {site.name: [plate.name for plate in site.layout.nested] for site in self.latents.sites}
        library = {"inference_library": "pyro", "inference_library_version": pyro.__version__}
        attrs = {**library, "sampling_method": "NUTS"}
        groups = {"posterior": self.values, "sample_stats": {"diverging": self.diverging}}
        return assemble(groups, self.structure.plate, nested, self.index, attrs)

    def distances(self, posterior: Posterior, *, c2st: bool = True, seed: int = 0) -> Distances:
        """Return the distance of an approximate posterior from the exact one, observation by observation.

        It compares as many draws from the approximate posterior as the reference has. Distances that do not exceed those of
        `noise` are not significant.

        Args:
            posterior: the approximate posterior of the same observations.
            c2st: whether to train a classifier that tells the draws apart, which takes about a second per observation.
            seed: reproduces draws, directions and classifiers, and leaves the caller's random state untouched.

        Raises:
            OptionError: ``posterior`` is not a `Posterior`.
            DataError: ``posterior`` belongs to other observations.
            MissingDependencyError: ``c2st=True``, but scikit-learn is not installed.
        """
        self.check_same(posterior)
        draws = self.vector.shape[:2].numel()
        with random_state(derived_seed(seed, Stream.REFERENCE), posterior.device):
            vector = unconstrained_draws(posterior, draws)
        return self._compare(vector, self.vector, c2st, seed)

    def noise(self, *, c2st: bool = False, seed: int = 0) -> Distances:
        """Return the distance between the two halves of the chains, which is about that of equal posteriors.

        Args:
            c2st: whether to train a classifier that tells the halves apart.
            seed: reproduces directions and classifiers, and leaves the caller's random state untouched.
        """
        half = len(self.vector) // 2
        return self._compare(self.vector[:half].flatten(0, 1), self.vector[half:], c2st, seed)

    def _compare(self, draws: Tensor, chains: Tensor, c2st: bool, seed: int) -> Distances:
        found = replace(distances(draws, chains.flatten(0, 1), seed=seed), index=self.index)
        if not c2st:
            return found
        accuracies = []
        for position, ess in enumerate(self.ess.tolist()):
            # A classifier would recognize test draws that are close to training draws of the same chain, hence the thinning.
            every = math.ceil(self.vector.shape[:2].numel() / max(ess, 1.0))
            thinned = chains[:, ::every, position].flatten(0, 1)
            accuracies.append(two_sample_test(draws[:, position], thinned, seed=seed).accuracy)
        return replace(found, c2st_accuracy=torch.tensor(accuracies, dtype=torch.float64))

    def check_same(self, posterior: Any) -> None:
        """Raise `OptionError` or `DataError` unless ``posterior`` is a posterior of the observations of this reference."""
        if not isinstance(posterior, Posterior):
            raise OptionError(
                f"posterior must be a Posterior, as vi.posterior(x) returns it; got {type(posterior).__name__}."
            )
        observations = self.vector.shape[2]
        if len(posterior) != observations or posterior.latents.labels != self.latents.labels:
            raise DataError(
                f"posterior must be of the {observations} observations of this reference, with latents "
                f"{self.latents.labels}; got {len(posterior)} observations with latents {posterior.latents.labels}."
            )
        if self.index is not None and posterior.index is not None and list(self.index) != list(posterior.index):
            raise DataError("posterior must be of the same observations as this reference, but their labels differ.")


def unconstrained_draws(posterior: Posterior, draws: int) -> Tensor:
    """Draw the unconstrained latent vectors of all observations, ``(draws, N, D)``, on the CPU."""
    return posterior.map_chunks(
        lambda chunk, q: {"vector": q.sample(torch.Size([chunk.draws]))}, draws=draws, observation_dim=1
    )["vector"]


def reference(
    vi: AmortizedVI,
    x: Any = None,
    *,
    posterior: Posterior | None = None,
    chains: int = 4,
    draws: int = 500,
    warmup: int = 500,
    together: int = 1,
    target_accept: float = 0.8,
    seed: int | None = None,
    progress: bool | None = None,
) -> Reference:
    """Draw from the exact posterior of each observation with Pyro's NUTS (Hoffman and Gelman, 2014).

    The generative model does not change. Each chain starts at a draw from the approximate posterior and is unlikely to find a
    mode that the approximate posterior does not cover: an r-hat close to one means that the chains agree, not that no mode is
    missing.

    Given the model, the posteriors of different observations are independent. By default each is sampled separately, with its
    own step size, mass matrix and divergences, which takes about half a minute per observation, mostly spent in Python.
    ``together=20`` samples 20 observations as one vector in little more than twice the time of one. The draws are still exact,
    but the most difficult observation determines the step size, and a divergence counts for all 20.

    Args:
        vi: a fitted estimator.
        x: ``N`` observations, as for `AmortizedVI.fit`. All of them are sampled, so pass a few.
        posterior: the approximate posterior of ``x`` from which chains start; by default that of the encoder.
        chains: the number of chains for each observation, run one after the other; at least 2.
        draws: the number of draws from each chain; at least 4.
        warmup: the number of discarded draws before these, during which step size and (diagonal) mass matrix are adapted.
        together: the number of observations that are sampled as one vector.
        target_accept: the acceptance probability to which the step size is adapted; increase it if trajectories diverge.
        seed: reproduces the draws and leaves the caller's random state untouched. Each group of ``together``
            observations has its own random numbers, so observations appended to ``x`` do not change the draws of full groups.
        progress: whether to show a progress bar; by default in notebooks and if standard error is a terminal.

    Returns:
        The draws, with r-hat, effective sample size and divergences of each observation. An `AmortviWarning` is issued if an
        r-hat is above 1.01, an effective sample size below 100 per chain, or a trajectory diverged.

    Raises:
        NotFittedError: no data have been seen.
        DataError: the observations cannot be used.
        OptionError: an option is out of range.
        NonFiniteError: the log joint density is not finite at a draw of the posterior.

    Example:
        >>> import warnings, torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.0], [0.5, 1.0]]), scale=0.5)
        >>> x = model.simulate(100, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full", freeze_model=True).setup(x, seed=0)
        >>> with warnings.catch_warnings(action="ignore"):  # it warns that these are too few draws
        ...     nuts = avi.reference(vi, x[:1], chains=2, draws=20, warmup=20, seed=0, progress=False)
        >>> nuts.values["z"].shape
        torch.Size([2, 20, 1, 2])
        >>> list(nuts.distances(vi.posterior(x[:1]), c2st=False).to_frame())
        ['mean_error', 'covariance_error', 'sliced_wasserstein']
    """
    options = NUTSOptions(chains, draws, warmup, together, target_accept, progress)
    posterior = vi.resolve_posterior(x, posterior)
    vector, diverging = sample_chains(posterior, options, seed)
    found = Reference(vector, diverging, *chain_diagnostics(vector), posterior.model.structure, posterior.index)
    warn_of_unreliable_chains(found)
    return found


def warn_of_unreliable_chains(found: Reference) -> None:
    """Issue a warning, attributed to the caller of `reference`, if the draws of some observations are unreliable."""
    unreliable, diverged = int((~found.reliable).sum()), int((found.divergences > 0).sum())
    if unreliable or diverged:
        warnings.warn(
            f"{unreliable} of {len(found.r_hat)} observations have an r-hat above {_LARGEST_R_HAT} or an effective sample size "
            f"below {_LEAST_ESS} per chain, and {diverged} have divergences (see to_frame()): increase draws and warmup, or "
            f"bring target_accept closer to 1.",
            AmortviWarning,
            stacklevel=3,
        )
