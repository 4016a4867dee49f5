"""Draws from the exact posterior by Hamiltonian Monte Carlo, to hold an approximate one against."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from torch import Tensor

from amortvi._util.checks import seed_or_none
from amortvi._util.chunks import Gathered
from amortvi._util.lazy import pandas as pd
from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.diagnostics.c2st import c2st as two_sample_test
from amortvi.diagnostics.reference.distances import Distances, distances
from amortvi.diagnostics.reference.nuts import Sampling, mixing, sample_all
from amortvi.errors import AmortviWarning, DataError, OptionError
from amortvi.inference import AmortizedVI
from amortvi.io.arviz_layout import assemble
from amortvi.model.latents import LatentVector
from amortvi.model.structure import Prototype
from amortvi.posterior.posterior import Posterior

__all__ = ["Reference", "reference", "unconstrained_draws"]

_LARGEST_R_HAT = 1.01
_FEWEST_OF_A_CHAIN = 100
"""Below 100 effective draws a chain, r-hat and the number of effective draws themselves are unreliable (Vehtari et al., 2021)."""


@dataclass(frozen=True, repr=False)
class Reference:
    """Draws from the exact posterior of each of ``N`` observations, in several chains, and how far they can be trusted.

    Args:
        vector: the unconstrained latent vectors, ``(chains, draws, N, D)``.
        diverging: whether the trajectory that led to a draw diverged, ``(chains, draws, N)``.
        r_hat: the largest rank-normalised split r-hat of any number of the latent vector, ``(N,)``.
        ess: the smallest effective number of draws, of bulk or tails, of any number of the latent vector, ``(N,)``.
        prototype: the structure of the model.
        index: the user's labels of the observations, where there are any.
    """

    vector: Tensor
    diverging: Tensor
    r_hat: Tensor
    ess: Tensor
    prototype: Prototype
    index: Any | None

    @property
    def latents(self) -> LatentVector:
        """The latent sites of one observation, and how they make one unconstrained vector of size ``D``."""
        return self.prototype.latents

    @property
    def values(self) -> dict[str, Tensor]:
        """The draws of each site in its own support, ``(chains, draws, N, *nested, *event)``."""
        return self.latents.constrain(self.vector)[0]

    @property
    def divergences(self) -> Tensor:
        """How many trajectories diverged, ``(N,)``."""
        return self.diverging.sum((0, 1))

    @property
    def trusted(self) -> Tensor:
        """Whether r-hat is at most 1.01 and there are 100 effective draws a chain, ``(N,)``."""
        return (self.r_hat <= _LARGEST_R_HAT) & (self.ess >= _FEWEST_OF_A_CHAIN * len(self.vector))

    def __repr__(self) -> str:
        chains, draws, observations, _ = self.vector.shape
        return (
            f"Reference({observations} observation{'s' * (observations != 1)}, {chains} chains of {draws} draws: r-hat up to "
            f"{float(self.r_hat.max()):.3f}, ess from {float(self.ess.min()):.0f}, {int(self.diverging.sum())} divergences)"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a row an observation: ``r_hat``, ``ess`` (the worst of its numbers) and ``divergences``."""
        columns = {name: getattr(self, name).numpy() for name in ("r_hat", "ess", "divergences")}
        return pd.DataFrame(columns, index=self.index)

    def to_arviz(self) -> Any:
        """Return the draws for ArviZ, laid out as `AmortizedVI.to_arviz` lays out those of the approximate posterior.

        So what ArviZ draws of several it draws of the two: ``az.plot_forest([vi.to_arviz(x), nuts.to_arviz()], model_names=["q",
        "NUTS"])`` with ArviZ 0.x, ``az.plot_forest({"q": vi.to_arviz(x), "NUTS": nuts.to_arviz()})`` with ArviZ 1.x. Groups:
        ``posterior``, and ``sample_stats`` with ``diverging``.

        Returns:
            `arviz.InferenceData` with ArviZ 0.x, `xarray.DataTree` with ArviZ 1.x.
        """
        nested = {site.name: [plate.name for plate in site.layout.nested] for site in self.latents.sites}
        attrs = {
            "inference_library": "pyro",
            "inference_library_version": pyro.__version__,
            "sampling_method": "NUTS",
        }
        groups = {"posterior": self.values, "sample_stats": {"diverging": self.diverging}}
        return assemble(groups, self.prototype.plate, nested, self.index, attrs)

    def distances(self, posterior: Posterior, *, c2st: bool = True, seed: int = 0) -> Distances:
        """Say how far an approximate posterior is from this one, observation by observation.

        It is compared by as many draws as there are here. Distances that are no larger than those of `noise` say nothing.

        Args:
            posterior: of the same observations, as ``vi.posterior(x)`` returns it.
            c2st: whether a classifier is to tell the draws apart as well, which takes about a second an observation.
            seed: reproduces draws, directions and classifiers, and leaves the caller's random state as it was.

        Raises:
            OptionError: ``posterior`` is something else.
            DataError: it is of other observations.
            MissingDependencyError: scikit-learn is not installed, and ``c2st`` was asked for.
        """
        self.check_same(posterior)
        draws = self.vector.shape[:2].numel()
        with random_state(derived_seed(seed, Stream.REFERENCE), posterior.device):
            found = unconstrained_draws(posterior, draws)
        return self._compared(found, self.vector, c2st, seed)

    def noise(self, *, c2st: bool = False, seed: int = 0) -> Distances:
        """Say how far one half of the chains is from the other: what `distances` come to by chance, or somewhat less.

        Args:
            c2st: whether a classifier is to tell the halves apart as well.
            seed: reproduces directions and classifiers, and leaves the caller's random state as it was.
        """
        half = len(self.vector) // 2
        return self._compared(self.vector[:half].flatten(0, 1), self.vector[half:], c2st, seed)

    def _compared(self, draws: Tensor, chains: Tensor, c2st: bool, seed: int) -> Distances:
        found = replace(distances(draws, chains.flatten(0, 1), seed=seed), index=self.index)
        if not c2st:
            return found
        accuracies = []
        for position, ess in enumerate(self.ess.tolist()):
            # Draws of a chain that resemble those before them would let a classifier recognise what it was trained on.
            every = math.ceil(self.vector.shape[:2].numel() / max(ess, 1.0))
            kept = chains[:, ::every, position].flatten(0, 1)
            accuracies.append(two_sample_test(draws[:, position], kept, seed=seed).accuracy)
        return replace(found, c2st_accuracy=torch.tensor(accuracies, dtype=torch.float64))

    def check_same(self, posterior: Any) -> None:
        """Raise an error if ``posterior`` is not a posterior of the observations of this reference."""
        if not isinstance(posterior, Posterior):
            raise OptionError(
                f"posterior must be the Posterior that vi.posterior(x) returns; got {type(posterior).__name__}."
            )
        observations = self.vector.shape[2]
        if len(posterior) != observations or posterior.latents.labels != self.latents.labels:
            raise DataError(
                f"posterior must be of the {observations} observations of this reference, with latents "
                f"{self.latents.labels}; it is of {len(posterior)} with {posterior.latents.labels}."
            )
        if self.index is not None and posterior.index is not None and list(self.index) != list(posterior.index):
            raise DataError("posterior must be of the same observations as this reference; their labels differ.")


def unconstrained_draws(posterior: Posterior, draws: int) -> Tensor:
    """Draw the unconstrained latent vectors of all observations, ``(draws, N, D)``, on the CPU."""
    gathered = Gathered(posterior.size, dim=1)
    for _, q in posterior.chunks(draws * posterior.latents.dim):
        gathered.add({"": q.sample(torch.Size([draws]))})
    return gathered.result()[""]


def reference(
    vi: AmortizedVI,
    x: Any,
    *,
    chains: int = 4,
    draws: int = 500,
    warmup: int = 500,
    together: int = 1,
    target_accept: float = 0.8,
    seed: int | None = None,
    progress: bool = True,
) -> Reference:
    """Draw from the exact posterior of each given observation with Pyro's NUTS (Hoffman and Gelman, 2014).

    The generative model stays as it is. Each chain starts at a draw of the approximate posterior, so chains find a mode that
    it has no mass near only by chance: an r-hat near one says that they agree, not that nothing was missed.

    Given the model, the posteriors of observations do not depend on one another. By default each is sampled by itself, with a
    step size, a mass matrix and divergences of its own. It takes about half a minute an observation, nearly all of it in Python.
    ``together=20`` samples 20 as one vector in a little more than twice the time of one, and is as exact; but the step size is
    then what the hardest of them needs, and a divergence counts against all of them, since it can't be told whose it was.

    Args:
        vi: a fitted estimator.
        x: ``N`` observations, as for `AmortizedVI.fit`, or a `Posterior`; all of them are sampled, so choose a few.
        chains: chains of each observation, one after the other, at least 2.
        draws: draws to keep of each chain, at least 4.
        warmup: draws before these, in which step size and (diagonal) mass matrix are adapted.
        together: how many observations are sampled as one vector.
        target_accept: the acceptance probability that the step size is adapted to; nearer to 1 where trajectories diverge.
        seed: reproduces the draws and leaves the caller's random state as it was. With the same ``together`` they are those of
            any other call whose observations begin with the same ones.
        progress: show a progress bar.

    Returns:
        The draws, with r-hat, effective sample size and divergences of each observation. There is an `AmortviWarning` where r-hat
        is above 1.01, fewer than 100 draws a chain are effective, or trajectories diverged.

    Raises:
        NotFittedError: the guide has not seen data yet.
        DataError: the observations cannot be used.
        OptionError: an option is out of range.
        NonFiniteError: the log joint density is not finite at a draw of the posterior.

    Example:
        >>> import warnings, torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.0], [0.5, 1.0]]), scale=0.5)
        >>> x = model.simulate(100, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full", freeze_model=True)
        >>> vi = vi.fit(x, epochs=200, lr=0.05, progress=False, seed=0)
        >>> with warnings.catch_warnings(action="ignore"):  # it warns that these are too few draws
        ...     nuts = avi.reference(vi, x[:1], chains=2, draws=50, warmup=50, seed=0, progress=False)
        >>> bool(nuts.distances(vi.posterior(x[:1]), c2st=False).mean_error < 0.5)
        True
    """
    options = Sampling(chains, draws, warmup, together, target_accept, progress)
    posterior = vi.posterior(x)
    vector, diverging = sample_all(vi.generative, posterior, options, seed_or_none(seed))
    r_hat, ess = mixing(vector)
    found = Reference(vector, diverging, r_hat, ess, posterior.prototype, posterior.index)
    if not bool(found.trusted.all()) or bool(diverging.any()):
        count, doubtful = len(r_hat), int((~found.trusted).sum())
        warnings.warn(
            f"{doubtful} of {count} observations have an r-hat above {_LARGEST_R_HAT} or fewer than {_FEWEST_OF_A_CHAIN} "
            f"effective draws a chain, and {int((found.divergences > 0).sum())} have divergences (see to_frame()): take more "
            f"draws and warm-up, or target_accept nearer to 1.",
            AmortviWarning,
            stacklevel=2,
        )
    return found
