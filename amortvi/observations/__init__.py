"""Observations in any form that users have them, as batches of the model's arguments."""

from amortvi.observations.batch import Batch
from amortvi.observations.minibatch import Minibatch
from amortvi.observations.observations import Observations, TensorObservations, as_observations, check_batch_size

__all__ = ["Batch", "Minibatch", "Observations", "TensorObservations", "as_observations", "check_batch_size"]
