"""Where the plates of a Pyro model stand in a tensor, and how to bring the observations to the front.

Pyro lays a value inside plates out as ``batch dims + event dims``, each plate at its own negative batch dimension; the
data plate need not be the leftmost. Users read results with the observations first. Here the two layouts meet:

* *model layout*: as Pyro has it, ``(..., B, ...) + event``;
* *observation layout*: ``(*S, B, *nested, *event)``, nested plates from the outermost to the innermost.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

__all__ = ["NestedPlate", "PlateLayout"]


@dataclass(frozen=True)
class NestedPlate:
    """A plate inside the data plate.

    Args:
        name: its name.
        dim: its batch dimension, negative.
        size: its size.
    """

    name: str
    dim: int
    size: int


@dataclass(frozen=True)
class PlateLayout:
    """The place of the data plate and of the plates nested in it, for one site.

    Args:
        dim: the batch dimension of the data plate, negative.
        nested: the other plates around the site, outermost first.
        event_dim: how many dimensions one value has.
    """

    dim: int
    nested: tuple[NestedPlate, ...]
    event_dim: int

    @classmethod
    def of_site(cls, site: dict[str, Any], plate: str) -> PlateLayout:
        """Read the layout of a sample site that stands inside ``plate``."""
        frames: Iterable[Any] = [frame for frame in site["cond_indep_stack"] if frame.vectorized]
        dim = next(frame.dim for frame in frames if frame.name == plate)
        # Pyro lists the innermost plate first.
        nested = tuple(
            NestedPlate(frame.name, frame.dim, frame.size) for frame in reversed(tuple(frames)) if frame.name != plate
        )
        return cls(dim, nested, site["fn"].event_dim)

    @property
    def batch_dims(self) -> int:
        """How many batch dimensions the model layout has at least."""
        return -min([self.dim, *(plate.dim for plate in self.nested)])

    @property
    def nested_shape(self) -> tuple[int, ...]:
        """The sizes of the nested plates, outermost first."""
        return tuple(plate.size for plate in self.nested)

    def to_model(self, value: Tensor, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Bring a value in observation layout to model layout.

        Args:
            value: ``(*sample_shape, B, *nested, *event)``.
            sample_shape: batch dimensions to the left of every plate of the model, already ending where the model's
                leftmost plate begins.

        Returns:
            The value, ``(*sample_shape, *batch, *event)`` with each plate at its own dimension.
        """
        samples = len(sample_shape)
        batch, event = value.shape[samples], value.shape[samples + 1 + len(self.nested) :]
        # Every nested plate starts as a trailing dimension and is swapped with the singleton that waits at its place.
        places = [1] * self.batch_dims
        places[self.dim] = batch
        opened = value.reshape(*sample_shape, *places, *self.nested_shape, *event)
        closed = list(places)
        for position, plate in enumerate(self.nested):
            opened = opened.transpose(samples + self.batch_dims + plate.dim, samples + self.batch_dims + position)
            closed[plate.dim] = plate.size
        return opened.reshape(*sample_shape, *closed, *event)

    def to_observations(self, value: Tensor) -> Tensor:
        """Bring a value in model layout to observation layout ``(B, *nested, *event)``.

        A plate that the value does not vary over, because Pyro left its dimension out, comes back as a singleton.
        """
        missing = self.batch_dims + self.event_dim - value.dim()
        full = value.reshape((1,) * missing + tuple(value.shape)) if missing > 0 else value
        event = full.shape[full.dim() - self.event_dim :]
        order = [self.dim, *(plate.dim for plate in self.nested)]
        batch_first = full.permute(
            *(full.dim() - self.event_dim + dim for dim in order),
            *(i for i in range(full.dim() - self.event_dim) if i - (full.dim() - self.event_dim) not in order),
            *range(full.dim() - self.event_dim, full.dim()),
        )
        return batch_first.reshape(*batch_first.shape[: len(order)], *event)
