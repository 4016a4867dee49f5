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
from amortvi.diagnostics.simulation.observed import GIVE_SIMULATOR, Places, find_places
from amortvi.errors import ModelError, OptionError
from amortvi.inference import AmortizedVI
from amortvi.model import Model, Site

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

    The Pyro model runs without its ``obs=``. The elements that each observed site reads are tracked from the arguments to
    the site, and each drawn value is immediately written to them. A later site that reads the argument, as in an
    autoregressive model, therefore sees the simulated value. Covariates, masks and masked entries keep their values. A
    second run checks that the model gives the simulated data the density from which they were drawn.

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
    example = _writable(source.take(slice(0, 64)).to(device), source)
    gathered, parts = Gathered(count), []
    with model.inference_mode():
        with random_state(0, device):
            places = find_places(model, example)
            _check_reproducible(model, places, example)
        for chunk in iter_chunks(rows, lambda chunk: model.simulate(chunk.batch, None, 1), device=device):
            batch = _writable(chunk.batch, source)
            sites = {site.name: site for site in _simulate_into(model, batch, places)}
            gathered.add({name: _rows(model, sites[name], batch.size) for name in model.latents.names})
            parts.append(batch.to(torch.device("cpu")))
    return gathered.result(), TensorObservations(Batch.concatenate(parts), "the simulated data")


def _writable(batch: Batch, source: Batch) -> Batch:
    """Return a copy of ``batch`` to write to, in which arguments share a tensor if they do so in ``source``."""
    copies: dict[Any, Tensor] = {}
    keys = iter([(value.data_ptr(), value.shape, value.stride(), value.dtype) for value in source.tensors()])
    return batch.map(lambda value: copies.setdefault(next(keys), value.clone(memory_format=torch.contiguous_format)))


def _rows(model: Model, site: Site, observations: int) -> Tensor:
    """Return the value of a site that has one for each observation, in observation layout."""
    rows = site.by_observation(site.value, model.structure.plate, observations)
    assert rows is not None
    return rows


def _simulate_into(
    model: Model, batch: Batch, places: Mapping[str, Places], visit: Callable[[Site], None] | None = None
) -> list[Site]:
    """Draw every site in the data plate, and write each observed value to ``batch`` before the next site is drawn.

    ``visit`` is called with each site before its value is written.
    """

    def write(site: Site) -> None:
        if visit is not None:
            visit(site)
        if site.name in places:
            value = _rows(model, site, batch.size)
            places[site.name].write(batch, value, site.observed_entries(model.structure.plate, value))

    return model.run(batch, draw_data=True, visit=write)


def _check_reproducible(model: Model, places: Mapping[str, Places], batch: Batch) -> None:
    """Raise `ModelError` unless the model gives simulated data the density from which it drew them; overwrites ``batch``."""
    plate = model.structure.plate
    drawn: dict[str, tuple[Site, Tensor]] = {}

    def record(site: Site) -> None:
        if site.frame(plate) is not None and not site.is_deterministic:
            drawn[site.name] = site, site.log_prob(plate)

    def compare(site: Site) -> None:
        if site.name not in drawn:
            return
        before, log_prob = drawn[site.name]
        if site.is_data:
            expected, read = _rows(model, before, batch.size), _rows(model, site, batch.size)
            observed = site.observed_entries(plate, read)
            same = torch.isclose(read.to(expected.dtype), expected, rtol=1e-4, atol=1e-4)
            if not bool((same if observed is None else same | ~observed).all()):
                raise ModelError(
                    f"observed site {site.name!r} does not have the values that were written to the model's arguments, so its "
                    f"values are computed from the arguments. {GIVE_SIMULATOR}"
                )
        # The density of the value that was drawn: the argument may hold it in another precision.
        again = Site({**site.message, "value": before.value}).log_prob(plate)
        if not torch.allclose(again, log_prob, rtol=1e-4, atol=1e-4):
            raise ModelError(
                f"the distribution of site {site.name!r} depends on observed data that the model reads before they are drawn: "
                f"read them from the argument after the pyro.sample statement that observes them. Otherwise: {GIVE_SIMULATOR}"
            )

    _simulate_into(model, batch, places, record)
    model.run(batch, values={name: drawn[name][0].value for name in model.latents.names}, visit=compare)
