"""The elements of the model's arguments that each observed site reads, to which simulated data are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from amortvi.data import Batch
from amortvi.errors import ModelError
from amortvi.model.model import Model
from amortvi.model.simulation.provenance import UNKNOWN, ElementTracker
from amortvi.model.sites import Site

__all__ = ["GIVE_SIMULATOR", "Places", "find_places"]

GIVE_SIMULATOR = (
    "Where simulator= is accepted, pass a function of a number n that returns n draws of the latents and the data simulated "
    "from them, in any form that fit accepts."
)


@dataclass(frozen=True)
class Places:
    """Where one observed site reads its elements; the same for every observation.

    Args:
        site: the name of the site.
        argument: the position of the argument that holds each of the ``E`` elements of one observation, ``(E,)``, in
            observation layout; -1 for an element that no argument holds.
        column: the position of each element in the flattened row of that argument, ``(E,)``.
    """

    site: str
    argument: Tensor
    column: Tensor

    def write(self, batch: Batch, value: Tensor, observed: Tensor | None) -> None:
        """Write simulated values to the arguments from which the model reads them.

        Args:
            batch: ``B`` observations, contiguous; changed in place.
            value: the values in observation layout, ``(B, *shape)``.
            observed: which elements are not masked, shaped like ``value``; masked elements are not written.

        Raises:
            ModelError: an element is not finite, has no place, or does not fit the type of its argument.
        """
        drawn = value.reshape(batch.size, -1)
        used = torch.ones_like(drawn, dtype=torch.bool) if observed is None else observed.reshape(batch.size, -1)
        if not bool(torch.isfinite(drawn[used]).all()):
            raise ModelError(
                f"site {self.site!r} has values that are not finite in data simulated from the prior: choose a prior and a "
                f"likelihood whose draws fit into {drawn.dtype}."
            )
        if bool(used[:, self.argument == UNKNOWN].any()):
            raise _not_an_argument(self.site)
        for position, (label, tensor) in enumerate(batch.named()):
            elements = (self.argument == position).nonzero()[:, 0]
            if len(elements):
                columns, rows = self.column[elements], tensor.view(batch.size, -1)
                new = torch.where(used[:, elements], drawn[:, elements].to(tensor.dtype), rows[:, columns])
                if not tensor.is_floating_point() and not bool((new == drawn[:, elements])[used[:, elements]].all()):
                    raise ModelError(
                        f"site {self.site!r} has simulated values such as {drawn[0, elements[0]].item():g}, which {label}, a "
                        f"tensor of {tensor.dtype}, cannot hold: pass {label} as floating-point numbers, or choose a discrete "
                        f"likelihood."
                    )
                rows[:, columns] = new


def find_places(model: Model, example: Batch) -> dict[str, Places]:
    """Run the model on real observations and find where each observed site in the data plate reads its elements.

    The model must be in `Model.inference_mode`.

    Raises:
        ModelError: a site observes something other than elements of the arguments, two sites observe the same element, or a
            site is weighted, so that data cannot be drawn from it.
    """
    plate, size = model.structure.plate, example.size
    tensors, start = [], 0
    for value in example.tensors():
        tensors.append((value, start + torch.arange(value.numel(), device=value.device).reshape(value.shape)))
        start += value.numel()
    tracker = ElementTracker(tensors)
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def read(site: Site) -> None:
        if site.frame(plate) is None:
            return
        _check_unweighted(site, plate)
        ids = site.by_observation(tracker.ids(site.value), plate, size) if site.is_data else None
        if ids is not None:
            observed = site.observed_entries(plate, ids)
            used = torch.ones_like(ids, dtype=torch.bool) if observed is None else observed
            found[site.name] = ids.reshape(size, -1), used.reshape(size, -1)

    with tracker:
        model.run(example, visit=read)
    widths = [value[0].numel() for value in example.tensors()]
    places = {name: _places(name, ids, used, widths) for name, (ids, used) in found.items()}
    _check_disjoint(places, [label for label, _ in example.named()])
    return places


def _check_unweighted(site: Site, plate: str) -> None:
    scale = site.own_scale(plate)
    if site.is_factor or isinstance(scale, Tensor) or abs(scale - 1) > 1e-6:
        what = "is a pyro.factor" if site.is_factor else "has a weight (poutine.scale, or a subsample)"
        raise ModelError(
            f"site {site.name!r} {what}, so the log joint density of the model is not that of a distribution from which data "
            f"can be drawn. {GIVE_SIMULATOR}"
        )


def _places(name: str, ids: Tensor, used: Tensor, widths: list[int]) -> Places:
    """Convert the ids of the elements of a site, ``(B, E)``, to places, which must be the same in each row.

    Elements that are not ``used``, ``(B, E)``, need no place; ``widths`` are the numbers of elements in a row of each argument.
    """
    rows = len(ids)
    argument, column = torch.full_like(ids, UNKNOWN), torch.full_like(ids, UNKNOWN)
    start = 0
    own_row = torch.arange(rows, device=ids.device).unsqueeze(1)
    for position, width in enumerate(widths):
        within = (ids >= start) & (ids < start + rows * width)
        if bool((within & ((ids - start) // width != own_row)).any()):
            raise ModelError(
                f"observed site {name!r} reads some observations from rows of the arguments that belong to other "
                f"observations, so simulated data cannot be written there. {GIVE_SIMULATOR}"
            )
        argument = torch.where(within, position, argument)
        column = torch.where(within, (ids - start) % width, column)
        start += rows * width
    known = argument != UNKNOWN
    # An element may be a constant in some rows only, for example where masked_fill replaced it.
    first = known.long().argmax(0, keepdim=True)
    argument_of, column_of = argument.gather(0, first)[0], column.gather(0, first)[0]
    if bool((known & ((argument != argument_of) | (column != column_of))).any()):
        raise ModelError(
            f"observed site {name!r} reads its elements from different positions in different rows of the arguments, so "
            f"simulated data cannot be written there. {GIVE_SIMULATOR}"
        )
    if bool((used & ~known).any()):
        raise _not_an_argument(name)
    return Places(name, argument_of, column_of)


def _not_an_argument(name: str) -> ModelError:
    return ModelError(
        f"observed site {name!r} has values that are constants or computed from the model's arguments, but not elements of "
        f"them, so simulated data cannot be passed to the encoder. Do the computation before calling the model, so that the "
        f"site has obs=x. Otherwise: {GIVE_SIMULATOR}"
    )


def _check_disjoint(places: Mapping[str, Places], labels: list[str]) -> None:
    """Raise `ModelError` if an element of an argument is observed twice."""
    taken: dict[tuple[int, int], str] = {}
    for name, place in places.items():
        for key in zip(place.argument.tolist(), place.column.tolist(), strict=True):
            if key[0] == UNKNOWN:
                continue
            if key in taken:
                where = f"site {name!r} twice" if taken[key] == name else f"sites {taken[key]!r} and {name!r}"
                raise ModelError(
                    f"the model observes the same element of {labels[key[0]]} in {where}, and simulated values would differ. "
                    f"{GIVE_SIMULATOR}"
                )
            taken[key] = name
