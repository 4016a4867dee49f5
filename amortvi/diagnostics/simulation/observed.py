"""Where what a model observes stands among the model's arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from amortvi.model.scoring import run_model
from pyro.distributions import MaskedDistribution, Unit
from pyro.poutine.messenger import Messenger
from torch import Tensor

from amortvi.data import Batch
from amortvi.diagnostics.simulation.provenance import UNKNOWN, Followed
from amortvi.errors import ModelError
from amortvi.model.plates import PlateLayout
from amortvi.model.program import GenerativeModel
from amortvi.model.sites import Site, frames, is_data, layers, own_scale
from amortvi.posterior.predictive import observation_rows

__all__ = ["GIVE_SIMULATOR", "Places", "find_places", "mask_rows"]

GIVE_SIMULATOR = (
    "Give simulator=, a function that is called with a number n and returns n draws of the latents, as a dict, with the "
    "observations made from them, as fit takes them."
)


@dataclass(frozen=True)
class Places:
    """Where the numbers of one observed site stand in the arguments, the same for each observation.

    Args:
        site: the name of the site.
        argument: for each number of one observation, in observation layout, the position of the argument that holds it,
            ``(E,)``; -1 for one that no argument holds.
        column: its position in the flattened row of that argument, ``(E,)``.
    """

    site: str
    argument: Tensor
    column: Tensor

    def write(self, batch: Batch, value: Tensor, counts: Tensor | None) -> None:
        """Put simulated values where the model observes them.

        Args:
            batch: ``B`` observations, contiguous; changed in place.
            value: in observation layout, ``(B, *shape)``.
            counts: which of its numbers are not masked, shaped as ``value``; the others stay as they are.

        Raises:
            ModelError: a number is not finite, cannot be held by its argument, or has no place.
        """
        drawn = value.reshape(batch.size, -1)
        used = torch.ones_like(drawn, dtype=torch.bool) if counts is None else counts.reshape(batch.size, -1)
        if not bool(torch.isfinite(drawn[used]).all()):
            raise ModelError(
                f"the model, run from its prior, draws values of site {self.site!r} that are not finite: give its latents or "
                f"its likelihood ranges that a {drawn.dtype} holds."
            )
        if bool(used[:, self.argument == UNKNOWN].any()):
            raise _not_an_argument(self.site)
        for position, (label, held) in enumerate(batch.named()):
            elements = (self.argument == position).nonzero()[:, 0]
            if len(elements):
                columns, rows = self.column[elements], held.view(batch.size, -1)
                new = torch.where(used[:, elements], drawn[:, elements].to(held.dtype), rows[:, columns])
                if not held.is_floating_point() and not bool((new == drawn[:, elements])[used[:, elements]].all()):
                    raise ModelError(
                        f"site {self.site!r} draws values such as {drawn[0, elements[0]].item():g}, which {label}, a tensor of "
                        f"{held.dtype}, cannot hold: give {label} as floating numbers, or choose a discrete likelihood."
                    )
                rows[:, columns] = new


def mask_rows(site: Site, plate: str, rows: int, like: Tensor) -> Tensor | None:
    """Return which numbers of a site's value count, shaped as ``like``, or ``None`` where nothing is masked.

    Args:
        site: a sample message inside the plate.
        plate: the data plate.
        rows: the number of observations.
        like: the value in observation layout, ``(rows, *nested, *event)``.
    """
    layout = PlateLayout.of_site(site, plate)
    batch_dims = len(site["fn"].batch_shape)
    given = [(site["mask"], site["fn"].batch_shape)]
    given += [(part._mask, part.batch_shape) for part in layers(site["fn"]) if isinstance(part, MaskedDistribution)]
    counts: Tensor | None = None
    for mask, shape in given:
        if mask is None or mask is True:
            continue
        full = torch.as_tensor(mask, device=like.device).expand(shape)
        # A mask below to_event has some of the event's dimensions.
        laid_out = PlateLayout(layout.dim, layout.nested, len(shape) - batch_dims).to_observations(full)
        laid_out = laid_out.reshape(laid_out.shape + (1,) * (like.dim() - laid_out.dim())).expand_as(like)
        counts = laid_out if counts is None else counts & laid_out
    return counts


def find_places(model: GenerativeModel, plate: str, example: Batch) -> dict[str, Places]:
    """Run the model on an example and find what each observed site in the plate is among the arguments.

    Args:
        model: the generative model.
        plate: the data plate.
        example: real observations, where the model is.

    Returns:
        The places of each observed site, by its name.

    Raises:
        ModelError: the model observes something that is no part of its arguments or the same number twice, or it
            weights a site, so that it is no distribution to draw from.
    """
    codes, start = [], 0
    for value in example.tensors():
        codes.append((value, start + torch.arange(value.numel(), device=value.device).reshape(value.shape)))
        start += value.numel()
    reader = _CodeReader(plate, example.size, Followed(codes))
    with reader.followed:
        run_model(model, example, reader)
    widths = [value[0].numel() for value in example.tensors()]
    places = {name: _places(name, found, widths, example.size) for name, found in reader.codes.items()}
    _check_apart(places, example)
    return places


class _CodeReader(Messenger):
    """Notes the code of each number of the observed sites in the plate, ``(B, E)``; masked ones are unknown."""

    def __init__(self, plate: str, rows: int, followed: Followed) -> None:
        super().__init__()
        self.plate = plate
        self.rows = rows
        self.followed = followed
        self.codes: dict[str, tuple[Tensor, Tensor]] = {}

    def _pyro_post_sample(self, msg: Site) -> None:
        if all(frame.name != self.plate for frame in frames(msg)):
            return
        scale = own_scale(msg, self.plate)
        if isinstance(msg["fn"], Unit) or isinstance(scale, Tensor) or abs(scale - 1) > 1e-6:
            what = "is a pyro.factor" if isinstance(msg["fn"], Unit) else "has a weight (poutine.scale, or a subsample)"
            raise ModelError(
                f"site {msg['name']!r} {what}, so the model's log joint density is not that of a distribution from which data "
                f"can be drawn. {GIVE_SIMULATOR}"
            )
        if not is_data(msg):
            return
        codes = self.followed.codes_of(msg["value"])
        found = observation_rows({**msg, "value": codes}, self.plate, self.rows)
        if found is None:
            return
        counts = mask_rows(msg, self.plate, self.rows, found)
        used = torch.ones_like(found, dtype=torch.bool) if counts is None else counts
        self.codes[msg["name"]] = found.reshape(self.rows, -1), used.reshape(self.rows, -1)


def _places(name: str, found: tuple[Tensor, Tensor], widths: list[int], rows: int) -> Places:
    """Read the codes of one site, ``(B, E)``, as places that are the same in each row."""
    codes, used = found
    argument, column = torch.full_like(codes, UNKNOWN), torch.full_like(codes, UNKNOWN)
    start = 0
    own_row = torch.arange(rows, device=codes.device).unsqueeze(1)
    for position, width in enumerate(widths):
        within = (codes >= start) & (codes < start + rows * width)
        if bool((within & ((codes - start) // width != own_row)).any()):
            raise ModelError(
                f"observed site {name!r} takes for one row of its plate what stands in another row of the arguments, so "
                f"simulated data cannot be put in its place. {GIVE_SIMULATOR}"
            )
        argument = torch.where(within, position, argument)
        column = torch.where(within, (codes - start) % width, column)
        start += rows * width
    known = argument != UNKNOWN
    # A row may hold a constant where another has a number, as masked_fill leaves it.
    shown = known.long().argmax(0, keepdim=True)
    argument_of, column_of = argument.gather(0, shown)[0], column.gather(0, shown)[0]
    if bool((known & ((argument != argument_of) | (column != column_of))).any()):
        raise ModelError(
            f"observed site {name!r} takes its numbers from other places of the arguments in one row than in another, so "
            f"simulated data cannot be put in their place. {GIVE_SIMULATOR}"
        )
    if bool((used & ~known).any()):
        raise _not_an_argument(name)
    return Places(name, argument_of, column_of)


def _not_an_argument(name: str) -> ModelError:
    return ModelError(
        f"observed site {name!r} has values that are not the model's arguments, but are computed from them or constant, so "
        f"simulated data cannot be given to the encoder. Compute what is observed before it is given to the model, so that "
        f"the site has obs=x. Or else: {GIVE_SIMULATOR}"
    )


def _check_apart(places: Mapping[str, Places], example: Batch) -> None:
    """Raise `ModelError` if one number of an argument is observed twice: two draws would be for one place."""
    taken: dict[tuple[int, int], str] = {}
    for name, place in places.items():
        for key in zip(place.argument.tolist(), place.column.tolist(), strict=True):
            if key[0] == UNKNOWN:
                continue
            if key in taken:
                where = f"site {name!r} twice" if taken[key] == name else f"sites {taken[key]!r} and {name!r}"
                label = list(example.named())[key[0]][0]
                raise ModelError(
                    f"the model observes the same number of {label} in {where}, where simulated data would differ. "
                    f"{GIVE_SIMULATOR}"
                )
            taken[key] = name
