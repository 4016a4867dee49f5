"""The dimensions of plates in a tensor, in two layouts.

Pyro gives a value inside plates the shape ``batch dims + event dims``, each plate at its own negative batch dimension; the
data plate need not be the leftmost. Results for users have observations in the first dimension.

* *Model layout* is Pyro's: ``(..., B, ...) + event``.
* *Observation layout* is the user's: ``(*S, B, *nested, *event)``, with nested plates from the outermost to the innermost.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["NestedPlate", "PlateLayout"]


@dataclass(frozen=True)
class NestedPlate:
    """A plate inside the data plate; ``dim`` is its batch dimension, negative."""

    name: str
    dim: int
    size: int


@dataclass(frozen=True)
class PlateLayout:
    """The dimensions of the data plate and of the plates nested in it, for one site.

    Args:
        dim: the batch dimension of the data plate, negative.
        nested: the other plates around the site, outermost first.
        event_dim: the number of event dimensions.
    """

    dim: int
    nested: tuple[NestedPlate, ...]
    event_dim: int

    @property
    def batch_dims(self) -> int:
        """The smallest number of batch dimensions in model layout."""
        return -min([self.dim, *(plate.dim for plate in self.nested)])

    @property
    def nested_shape(self) -> tuple[int, ...]:
        """The sizes of the nested plates, outermost first."""
        return tuple(plate.size for plate in self.nested)

    def to_model(self, value: Tensor, sample_shape: tuple[int, ...] = ()) -> Tensor:
        """Convert a value ``(*sample_shape, B, *nested, *event)`` to model layout, ``(*sample_shape, *batch, *event)``."""
        samples = len(sample_shape)
        batch, event = value.shape[samples], value.shape[samples + 1 + len(self.nested) :]
        # Each nested plate starts as a trailing dimension and is swapped with the singleton at its own dimension.
        places = [1] * self.batch_dims
        places[self.dim] = batch
        opened = value.reshape(*sample_shape, *places, *self.nested_shape, *event)
        closed = list(places)
        for position, plate in enumerate(self.nested):
            opened = opened.transpose(samples + self.batch_dims + plate.dim, samples + self.batch_dims + position)
            closed[plate.dim] = plate.size
        return opened.reshape(*sample_shape, *closed, *event)

    def to_observations(self, value: Tensor) -> Tensor:
        """Convert a value from model layout to observation layout, ``(B, *nested, *event)``.

        A plate whose dimension Pyro left out, because the value does not vary over it, becomes a singleton.
        """
        missing = self.batch_dims + self.event_dim - value.dim()
        full = value.reshape((1,) * missing + tuple(value.shape)) if missing > 0 else value
        batch_dims = full.dim() - self.event_dim
        plates = [batch_dims + dim for dim in (self.dim, *(plate.dim for plate in self.nested))]
        plates_first = full.permute(*plates, *(i for i in range(full.dim()) if i not in plates))
        return plates_first.reshape(*plates_first.shape[: len(plates)], *full.shape[batch_dims:])
