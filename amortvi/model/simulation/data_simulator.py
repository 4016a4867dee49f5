"""Data drawn from the model and written to the arguments from which the model reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from amortvi._util.random import random_state
from amortvi.data import Batch
from amortvi.errors import ModelError
from amortvi.model.model import Model
from amortvi.model.simulation.places import GIVE_SIMULATOR, find_places
from amortvi.model.sites import Site

__all__ = ["DataSimulator"]

_CHECKED = 64
"""The number of observations with which it is checked that a model simulates what it reads."""


class DataSimulator:
    """Draws data from a model that is in `Model.inference_mode`, as arguments for another call of the model.

    The elements that each observed site reads are tracked from the arguments to the site, and each drawn value is immediately
    written to them. A later site that reads the argument, as in an autoregressive model, therefore sees the simulated value.
    Covariates, masks and masked entries keep their values.

    Args:
        model: the generative model.
        source: observations, on any device.
        device: the device of the model.

    Raises:
        ModelError: the model gives simulated data another density than the one from which they were drawn: a site is weighted,
            observes something other than elements of the arguments, or depends on observed data that are read before they are
            drawn.
    """

    def __init__(self, model: Model, source: Batch, device: torch.device) -> None:
        self._model = model
        # Arguments that share a tensor also share the simulated data.
        self._keys = [(value.data_ptr(), value.shape, value.stride(), value.dtype) for value in source.tensors()]
        example = self._writable(source.take(slice(0, _CHECKED)).to(device))
        with random_state(0, device):
            self._places = find_places(model, example)
            self._check_reproducible(example)

    def draw(self, batch: Batch, values: Mapping[str, Tensor] | None = None) -> tuple[Batch, dict[str, Tensor]]:
        """Draw data with the sizes and covariates of a batch.

        Args:
            batch: ``B`` observations with the arguments of the source, on the device of the model.
            values: the continuous latents in observation layout, ``(1, B, *shape)``, with which discrete ones are drawn from
                ``p(y | x, z)``; ``None`` draws all latents from the prior.

        Returns:
            The simulated observations, and the latents in observation layout, each ``(B, *shape)``.

        Raises:
            ModelError: a simulated value is not finite, or does not fit the type of its argument.
        """
        copied = self._writable(batch)
        given = {} if values is None else self._model.with_discrete(batch, values)
        sites = {site.name: site for site in self._simulate_into(copied, given)}
        return copied, {name: self._rows(sites[name], batch.size) for name in self._model.latents.names}

    def _writable(self, batch: Batch) -> Batch:
        copies: dict[Any, Tensor] = {}
        keys = iter(self._keys)
        return batch.map(
            lambda value: copies.setdefault(next(keys), value.clone(memory_format=torch.contiguous_format))
        )

    def _rows(self, site: Site, observations: int) -> Tensor:
        """Return the value of a site that has one for each observation, in observation layout."""
        rows = site.by_observation(site.value, self._model.structure.plate, observations)
        assert rows is not None
        return rows

    def _simulate_into(
        self, batch: Batch, values: Mapping[str, Tensor], visit: Callable[[Site], None] | None = None
    ) -> list[Site]:
        """Draw every site in the data plate, and write each observed value to ``batch`` before the next site is drawn.

        ``values`` are those of latents that are not drawn, in model layout. ``visit`` is called with each site before its value
        is written.
        """
        plate = self._model.structure.plate

        def write(site: Site) -> None:
            if visit is not None:
                visit(site)
            if site.name in self._places:
                value = self._rows(site, batch.size)
                self._places[site.name].write(batch, value, site.observed_entries(plate, value))

        return self._model.run(batch, values=values, draw_data=True, visit=write)

    def _check_reproducible(self, batch: Batch) -> None:
        """Raise `ModelError` unless the model gives simulated data the density from which it drew them; overwrites ``batch``."""
        plate = self._model.structure.plate
        drawn: dict[str, tuple[Site, Tensor]] = {}

        def record(site: Site) -> None:
            if site.frame(plate) is not None and not site.is_deterministic:
                drawn[site.name] = site, site.log_prob(plate)

        def compare(site: Site) -> None:
            if site.name not in drawn:
                return
            before, log_prob = drawn[site.name]
            if site.is_data:
                expected, read = self._rows(before, batch.size), self._rows(site, batch.size)
                observed = site.observed_entries(plate, read)
                same = torch.isclose(read.to(expected.dtype), expected, rtol=1e-4, atol=1e-4)
                if not bool((same if observed is None else same | ~observed).all()):
                    raise ModelError(
                        f"observed site {site.name!r} does not have the values that were written to the model's arguments, so "
                        f"its values are computed from the arguments. {GIVE_SIMULATOR}"
                    )
            # The density of the value that was drawn: the argument may hold it in another precision.
            again = Site({**site.message, "value": before.value}).log_prob(plate)
            if not torch.allclose(again, log_prob, rtol=1e-4, atol=1e-4):
                raise ModelError(
                    f"the distribution of site {site.name!r} depends on observed data that the model reads before they are "
                    f"drawn: read them from the argument after the pyro.sample statement that observes them. Otherwise: "
                    f"{GIVE_SIMULATOR}"
                )

        self._simulate_into(batch, {}, record)
        names = {*self._model.latents.names, *(site.name for site in self._model.structure.discrete)}
        latents = {name: drawn[name][0].value for name in names}
        self._model.run(batch, values=latents, visit=compare)
