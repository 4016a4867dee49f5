"""The data as the model observes them, site by site."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from amortvi.model.data_check import check_data
from amortvi.model.scoring import run_model
from pyro.poutine.messenger import Messenger
from torch import Tensor

from amortvi._util.chunks import Gathered
from amortvi.diagnostics.simulation.observed import mask_rows
from amortvi.errors import DataError, ModelError
from amortvi.model.program import GenerativeModel
from amortvi.model.sites import Site, is_data
from amortvi.posterior.posterior import Posterior
from amortvi.posterior.predictive import observation_rows

__all__ = ["DataSite", "read_data"]


@dataclass(frozen=True)
class DataSite:
    """What one site observes.

    Args:
        name: of the site.
        value: the data, ``(N, *nested, *event)``, on the CPU.
        missing: which of it the model masks, of the same shape.
        discrete: whether the values are discrete.
    """

    name: str
    value: Tensor
    missing: Tensor
    discrete: bool

    def masked(self, value: Tensor) -> Tensor:
        """Return values of this site as floating numbers, with NaN for what the model masks."""
        floating = value if value.is_floating_point() else value.double()
        return floating.masked_fill(self.missing, torch.nan) if bool(self.missing.any()) else floating


def read_data(model: GenerativeModel, posterior: Posterior) -> list[DataSite]:
    """Run the model on the observations and return what each of its sites in the data plate observes.

    Args:
        model: the generative model, in evaluation mode.
        posterior: of the observations.

    Raises:
        ModelError: it observes nothing in the plate.
        DataError: a value is outside the support, or all values of a site are masked.
    """
    values, missing = Gathered(posterior.size), Gathered(posterior.size)
    reader: _DataReader | None = None
    for batch, _ in posterior.chunks():
        check_data(model, batch)
        reader = _DataReader(posterior.prototype.plate, batch.size)
        run_model(model, batch, reader)
        values.add(reader.values)
        missing.add(reader.missing)
    assert reader is not None
    whole, masks = values.result(), missing.result()
    if not whole:
        raise ModelError(
            "the model observes no values in its data plate, so there is nothing to replicate: pyro.factor adds to the density "
            "but draws no data."
        )
    for name, mask in masks.items():
        if bool(mask.all()):
            raise DataError(f"x has no value at site {name!r} that the model does not mask.")
    return [DataSite(name, whole[name], masks[name], reader.discrete[name]) for name in whole]


class _DataReader(Messenger):
    """Reads the data of every observed site in the data plate, in observation layout, and which of it is masked."""

    def __init__(self, plate: str, rows: int) -> None:
        super().__init__()
        self.plate = plate
        self.rows = rows
        self.values: dict[str, Tensor] = {}
        self.missing: dict[str, Tensor] = {}
        self.discrete: dict[str, bool] = {}

    def _pyro_post_sample(self, msg: Site) -> None:
        value = observation_rows(msg, self.plate, self.rows) if is_data(msg) else None
        if value is not None:
            counts = mask_rows(msg, self.plate, self.rows, value)
            self.values[msg["name"]] = value
            self.missing[msg["name"]] = torch.zeros_like(value, dtype=torch.bool) if counts is None else ~counts
            self.discrete[msg["name"]] = bool(msg["fn"].support.is_discrete)
