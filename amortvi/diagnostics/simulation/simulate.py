"""Latents from the prior with data simulated from them, as arguments of the model: pairs whose posterior is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from amortvi.model.scoring import run_model
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from amortvi._util.checks import positive_int
from amortvi._util.chunks import Gathered, rows_at_once, spans
from amortvi._util.modes import evaluation_mode
from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.data import Batch, Observations, TensorObservations
from amortvi.data.chunks import numbers_per_row
from amortvi.diagnostics.simulation.observed import GIVE_SIMULATOR, Places, find_places, mask_rows
from amortvi.errors import ModelError, OptionError
from amortvi.inference import AmortizedVI
from amortvi.model.program import GenerativeModel
from amortvi.model.sites import Site, is_data, is_deterministic
from amortvi.model.structure import Prototype
from amortvi.posterior.predictive import SiteSampler, observation_rows, simulate

__all__ = ["Simulated", "Simulator", "simulate_observations"]

Simulator = Callable[[int], tuple[Mapping[str, Tensor], Any]]
"""Called with a number ``n``, returns ``n`` draws of the latents, for each site ``(n, *nested, *event)``, and the
observations made from them, in any form that `AmortizedVI.fit` takes."""

_EXAMPLE_ROWS = 64


@dataclass(frozen=True)
class Simulated:
    """Draws from the joint distribution of latents and data: each latent is an exact posterior draw given its data.

    Args:
        values: the latents in the support of their sites, for each site ``(n, *nested, *event)``.
        vector: the same latents as unconstrained vectors, ``(n, D)``.
        observations: the simulated data, as `AmortizedVI.posterior` and all that takes observations takes them.
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
        """The number of draws."""
        return self.vector.shape[0]

    def __repr__(self) -> str:
        return f"Simulated({self.size} draws: {self.batch.describe()})"


def simulate_observations(
    vi: AmortizedVI,
    simulations: int,
    x: Any = None,
    *,
    simulator: Simulator | None = None,
    seed: int | None = None,
) -> Simulated:
    """Draw latents from the prior and data from the model, and put the data where the model and encoder expect them.

    The Pyro model is run with its ``obs=`` taken away. Which argument it observes, in which order and shape, is followed from
    the arguments to the observed sites; covariates and masks stay as they are, and so do masked numbers. Whatever is drawn
    is in its argument at once, so a site further down that reads it there, as in an autoregressive model, sees the
    simulated value. A second run then checks that the model says of the simulated data what it said when it drew
    them.

    A model draws what its likelihood draws: one with a Bernoulli likelihood that was trained on gray values simulates
    black and white.

    Args:
        vi: a fitted estimator.
        simulations: ``n``, how many draws.
        x: observations whose sizes and covariates the draws are for, taken in turn; by default a few of the training data.
        simulator: what draws latents and data instead, where the model cannot be made to: a function of ``n``, see
            `Simulator`.
        seed: reproduces the draws and leaves the caller's random state as it was.

    Returns:
        The latents and the data.

    Raises:
        NotFittedError: the guide has not seen data yet.
        DataError: the observations ``x``, or those that ``simulator`` returns, cannot be used.
        OptionError: ``simulations`` is not a positive integer, or ``simulator`` returns something else than it should.
        ModelError: the model observes something that is no part of its arguments, weights a site, or reads what it
            observes elsewhere as well, so that data cannot be drawn from it.

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.eye(2), scale=1.0)
        >>> x = model.simulate(20, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, []), "full").fit(x, epochs=1, progress=False, seed=0)
        >>> simulated = avi.diagnostics.simulate_observations(vi, 1000, seed=0)
        >>> simulated.values["z"].shape, simulated.batch.args[0].shape
        (torch.Size([1000, 2]), torch.Size([1000, 2]))
        >>> vi.posterior(simulated.observations)
        Posterior(FullCovariance, 1000 observations, z: (2,))
    """
    count = positive_int("simulations", simulations)
    # Not the seed itself: a posterior sampled with the same one would have the very noise that the latents are made of.
    own_seed = derived_seed(seed, Stream.SIMULATION)
    source = vi.example if x is None else vi.posterior(x).observations.first(count)
    prototype = vi.guide.prototype
    if simulator is not None:
        with random_state(own_seed, vi.device):
            values, observations = _checked(simulator(count), vi, count)
    else:
        values, batch = _draw(vi.generative, prototype, source, count, vi.device, own_seed)
        observations = TensorObservations(batch, "the simulated data")
    vector, _ = prototype.latents.unconstrain({name: value.to(vi.device) for name, value in values.items()})
    if not bool(torch.isfinite(vector).all()):
        raise ModelError(
            "the prior draws latents at the very edge of their support, which no finite unconstrained numbers map to: give "
            "it less mass there."
        )
    return Simulated(values, vector.cpu(), observations)


def _checked(answer: Any, vi: AmortizedVI, count: int) -> tuple[dict[str, Tensor], Observations]:
    """Return what a user's simulator gave, or raise `OptionError`."""
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], Mapping):
        raise OptionError(f"simulator must return a dict of latents and the observations; got {type(answer).__name__}.")
    given = dict(answer[0])
    values = {name: torch.as_tensor(value, dtype=vi.dtype, device="cpu") for name, value in given.items()}
    observations = vi.posterior(answer[1]).observations
    # Also says what is wrong with values that cannot be used.
    vector, _ = vi.guide.latents.unconstrain({name: value.to(vi.device) for name, value in values.items()})
    sizes = {"latents": vector.shape[0] if vector.dim() == 2 else 0, "observations": observations.size}
    if set(sizes.values()) != {count}:
        raise OptionError(f"simulator({count}) must return {count} latents and as many observations; got {sizes}.")
    return values, observations


def _draw(
    model: GenerativeModel, prototype: Prototype, source: Batch, count: int, device: torch.device, seed: int | None
) -> tuple[dict[str, Tensor], Batch]:
    """Draw ``count`` latents, in observation layout, and the data simulated from them."""
    gathered, parts = Gathered(count), []
    with torch.no_grad(), evaluation_mode(model), pyro.validation_enabled(False), model.own_parameters():
        first = _rows(source, range(min(source.size, _EXAMPLE_ROWS)), device)
        with random_state(0, device):
            places = find_places(model, prototype.plate, first)
            _check_agreement(model, prototype.plate, places, first)
        width = numbers_per_row(lambda batch: simulate(model, prototype, batch, None, 1), first)
        with random_state(seed, device):
            for span in spans(count, rows_at_once(width)):
                batch = _rows(source, span, device)
                drawn = _Writer(prototype.plate, batch, places)
                run_model(model, batch, drawn)
                gathered.add({site.name: drawn.drawn[site.name].cpu() for site in prototype.latents.sites})
                parts.append(batch.to(torch.device("cpu")))
    return gathered.result(), Batch.joined(parts)


def _rows(source: Batch, rows: range, device: torch.device) -> Batch:
    """Return rows, from the start again after the last, to write to; what was one tensor in two arguments stays one."""
    positions = torch.arange(rows.start, rows.stop) % source.size
    copies: dict[Any, Tensor] = {}

    def copy(value: Tensor) -> Tensor:
        key = value.data_ptr(), value.shape, value.stride(), value.dtype
        if key not in copies:
            copies[key] = value.index_select(0, positions.to(value.device)).to(device)
        return copies[key]

    return Batch(tuple(map(copy, source.args)), {name: copy(value) for name, value in source.kwargs.items()})


class _Writer(SiteSampler):
    """Draws every site in the plate anew and puts what is observed into the batch; the sites outside stay."""

    def __init__(self, plate: str, batch: Batch, places: Mapping[str, Places]) -> None:
        super().__init__(plate, {}, batch.size)
        self.batch = batch
        self.places = places

    def _pyro_sample(self, msg: Site) -> None:
        if any(frame.name == self.plate for frame in msg["cond_indep_stack"]):
            super()._pyro_sample(msg)

    def _pyro_post_sample(self, msg: Site) -> None:
        super()._pyro_post_sample(msg)
        place = self.places.get(msg["name"])
        if place is not None:
            rows = self.drawn[msg["name"]]
            place.write(self.batch, rows, mask_rows(msg, self.plate, self.rows, rows))


class _NotingWriter(_Writer):
    """Notes the value of each site, in model layout, and what the model says of it at that moment."""

    def __init__(self, plate: str, batch: Batch, places: Mapping[str, Places]) -> None:
        super().__init__(plate, batch, places)
        self.noted: dict[str, tuple[Tensor, Tensor]] = {}

    def _pyro_post_sample(self, msg: Site) -> None:
        super()._pyro_post_sample(msg)
        if msg["name"] in self.drawn and not is_deterministic(msg):
            self.noted[msg["name"]] = msg["value"], _log_prob(msg, msg["value"])


def _log_prob(msg: Site, value: Tensor) -> Tensor:
    log_prob: Tensor = scale_and_mask(msg["fn"].log_prob(value), 1.0, msg["mask"])
    return log_prob


class _Reader(SiteSampler):
    """Runs the model on simulated data with its latents set, and looks whether it says what it said when it drew them."""

    def __init__(self, drawn: _NotingWriter) -> None:
        super().__init__(drawn.plate, {}, drawn.rows)
        self.first_run = drawn.noted

    def _pyro_sample(self, msg: Site) -> None:
        if msg["name"] not in self.first_run:
            return
        value, log_prob = self.first_run[msg["name"]]
        if is_data(msg):
            rows, given = (observation_rows({**msg, "value": v}, self.plate, self.rows) for v in (value, msg["value"]))
            assert rows is not None
            assert given is not None
            counts = mask_rows(msg, self.plate, self.rows, rows)
            same = torch.isclose(given.to(rows.dtype), rows, rtol=1e-4, atol=1e-4)
            if not bool((same if counts is None else same | ~counts).all()):
                raise ModelError(
                    f"observed site {msg['name']!r} does not have the values that were put into the model's arguments: what it "
                    f"observes is computed from them. {GIVE_SIMULATOR}"
                )
        msg["value"], msg["done"] = value, True
        if not torch.allclose(_log_prob(msg, value), log_prob, rtol=1e-4, atol=1e-4):
            raise ModelError(
                f"the distribution of site {msg['name']!r} depends on data that the model observes itself, and that it read "
                f"before they were drawn: read them from the argument where they are needed, after their pyro.sample. "
                f"Or else: {GIVE_SIMULATOR}"
            )

    def _pyro_post_sample(self, msg: Site) -> None:
        """Keep nothing."""


def _check_agreement(model: GenerativeModel, plate: str, places: Mapping[str, Places], batch: Batch) -> None:
    """Raise `ModelError` unless the model, run on data that it simulated, has the distributions that it drew them from.

    Args:
        model: the generative model.
        plate: the data plate.
        places: of the observed sites.
        batch: some rows, which are written to.
    """
    drawn = _NotingWriter(plate, batch, places)
    run_model(model, batch, drawn)
    run_model(model, batch, _Reader(drawn))
