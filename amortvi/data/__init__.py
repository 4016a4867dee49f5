"""Observations ``x``: data in any accepted form as batches of the model's arguments; and ready-made data sets."""

from amortvi.data.batch import Batch, Minibatch
from amortvi.data.chunks import Chunk, iter_batches, iter_chunks, map_chunks
from amortvi.data.missing import mask_missing
from amortvi.data.observations import DEFAULT_BATCH_SIZE, Observations, TensorObservations
from amortvi.data.padding import Padded, pad
from amortvi.data.reading import as_observations

__all__ = [
    "DEFAULT_BATCH_SIZE",
    "Batch",
    "Chunk",
    "Minibatch",
    "Observations",
    "Padded",
    "TensorObservations",
    "as_observations",
    "iter_batches",
    "iter_chunks",
    "map_chunks",
    "mask_missing",
    "pad",
]
