"""Simulation of data from latents drawn from the prior, which are thus known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from amortvi._util.checks import positive_int
from amortvi._util.memory import Gathered
from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.data import Batch, Observations, TensorObservations, iter_chunks
from amortvi.errors import ModelError, OptionError
from amortvi.inference import AmortizedVI
from amortvi.model import Model
from amortvi.model.simulation import DataSimulator

__all__ = ["Simulated", "Simulator", "simulate_observations"]

Simulator = Callable[[int], tuple[Mapping[str, Tensor], Any]]
"""A function of a number ``n`` that returns ``n`` draws of the latents, for each site ``(n, *nested, *event)``, and the
observations simulated from them, in any form that `AmortizedVI.fit` accepts."""


@dataclass(frozen=True)
class Simulated:
    """Draws from the joint distribution of latents and data: given its data, each latent is an exact posterior draw.

    Args:
        values: the latents in the support of their sites, for each site ``(n, *nested, *event)``.
        vector: the same latents as unconstrained vectors, ``(n, D)``.
        observations: the simulated data, which can be passed wherever observations are accepted.
    """

    values: Mapping[str, Tensor]
    vector: Tensor
    observations: Observations

    @property
    def batch(self) -> Batch:
        """The simulated data as arguments of the model, ``n`` rows, on the CPU."""
        return self.observations.as_batch()

    @property
    def size(self) -> int:
        """``n``, the number of draws."""
        return self.vector.shape[0]

    def __repr__(self) -> str:
        return f"Simulated({self.size} draws: {self.batch.describe()})"


def simulate_observations(
    vi: AmortizedVI, simulations: int, x: Any = None, *, simulator: Simulator | None = None, seed: int | None = None
) -> Simulated:
    """Draw latents from the prior and data given the latents, in the form that model and encoder expect.

    The Pyro model runs without its ``obs=``, and each drawn value is written to the elements of the arguments from which its
    site reads it. Covariates, masks and masked entries keep their values. A second run checks that the model gives the simulated
    data the density from which they were drawn.

    The data are draws from the likelihood: a model with a Bernoulli likelihood simulates binary images even if it was trained
    on gray values.

    Args:
        vi: a fitted estimator.
        simulations: ``n``, the number of draws.
        x: observations whose sizes and covariates are used, cyclically; by default some of the training data.
        simulator: draws latents and data in place of the model; see `Simulator`.
        seed: reproduces the draws and leaves the caller's random state untouched.

    Returns:
        The latents and the data.

    Raises:
        NotFittedError: no data have been seen.
        DataError: the observations ``x``, or those that ``simulator`` returns, cannot be used.
        OptionError: ``simulations`` is not a positive integer, or the result of ``simulator`` has the wrong form.
        ModelError: data cannot be simulated from the model: a site is weighted, observes something other than elements of
            the arguments, or depends on observed data that are read before they are drawn.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").setup(model.simulate(20, seed=0), seed=0)
        >>> simulated = avi.diagnostics.simulate_observations(vi, 1000, seed=0)
        >>> simulated.values["z"].shape, simulated.batch.args[0].shape
        (torch.Size([1000, 2]), torch.Size([1000, 2]))
        >>> vi.posterior(simulated.observations)
        Posterior(FullCovariance, 1000 observations, z: (2,))
    """
    count = positive_int("simulations", simulations)
    source = vi.example if x is None else vi.posterior(x, copy=False).observations.first(count)
    # With the seed itself, a posterior sampled with the same seed would reuse the noise of the latents.
    with random_state(derived_seed(seed, Stream.SIMULATION), vi.device):
        if simulator is None:
            values, observations = _draw(vi.generative, source, count, vi.device)
        else:
            values, observations = _checked(simulator(count), vi, count)
    vector, _ = vi.generative.latents.unconstrain({name: value.to(vi.device) for name, value in values.items()})
    if not bool(torch.isfinite(vector).all()):
        raise ModelError(
            "the prior draws latents on the boundary of their support, where the unconstrained latents are infinite: choose a "
            "prior with less mass there."
        )
    return Simulated(values, vector.cpu(), observations)


def _checked(result: Any, vi: AmortizedVI, count: int) -> tuple[dict[str, Tensor], Observations]:
    """Return the result of the user's simulator, or raise `OptionError` or `DataError`."""
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], Mapping):
        raise OptionError(
            f"simulator must return a tuple of a dict of latents and the observations; got {type(result).__name__}."
        )
    values = {name: torch.as_tensor(value, dtype=vi.dtype, device="cpu") for name, value in dict(result[0]).items()}
    observations = vi.posterior(result[1], copy=False).observations
    leading = vi.generative.latents.leading_shape(values)
    if (*leading, observations.size) != (count, count):
        raise OptionError(
            f"simulator({count}) must return {count} draws of the latents and as many observations; got latents of leading "
            f"shape {tuple(leading)} and {observations.size} observations."
        )
    return values, observations


def _draw(model: Model, source: Batch, count: int, device: torch.device) -> tuple[dict[str, Tensor], Observations]:
    """Draw latents, in observation layout, and data with the sizes and covariates of ``source``, used cyclically."""
    rows = TensorObservations(source.take(torch.arange(count) % source.size), "the simulated data")
    gathered, parts = Gathered(count), []
    with model.inference_mode():
        simulator = DataSimulator(model, source, device)
        for chunk in iter_chunks(rows, lambda chunk: model.simulate(chunk.batch, None, 1), device=device):
            batch, latents = simulator.draw(chunk.batch)
            gathered.add(latents)
            parts.append(batch.to(torch.device("cpu")))
    return gathered.result(), TensorObservations(Batch.concatenate(parts), "the simulated data")
