"""Training of the encoder alone, on observations and replicates of them.

A replicate of an observation is drawn from its posterior predictive distribution (Gelman, Meng and Stern, 1996).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from amortvi._util.memory import spans
from amortvi._util.modes import evaluation_mode
from amortvi.data import DEFAULT_BATCH_SIZE, Batch, Observations
from amortvi.data.replicated import ReplicatedObservations
from amortvi.model import Model
from amortvi.model.simulation import DataSimulator
from amortvi.posterior import InferenceNetwork
from amortvi.training import EncoderOptions, Trainer

__all__ = ["train_encoder"]


def train_encoder(
    trainer: Trainer, options: EncoderOptions, x: Batch, validation: Observations | None, device: torch.device
) -> None:
    """Train the network of a trainer with an optimizer of its own; see `AmortizedVI.fit_encoder`."""
    at_once = options.batch_size or DEFAULT_BATCH_SIZE
    replicate = _Replicator(trainer.model, trainer.network, x, device, at_once=at_once)
    observations = ReplicatedObservations(x, replicate, options.replicates, "x")
    # The records are those of the trainer, so that the history continues.
    alone = Trainer(trainer.model, trainer.network, freeze_model=True, records=trainer.records)
    # Replicates are no data, from which the global latents could be learned.
    with _frozen(trainer.network.global_posterior):
        alone.run(options, observations, validation, device)
    before, after = trainer.convergence, alone.convergence
    assert before is not None
    assert after is not None
    # An encoder that has converged does not make the earlier fit of the model converged.
    hides = after.converged and not before.converged
    trainer.convergence = replace(before, epoch=after.epoch) if hides else after


@contextlib.contextmanager
def _frozen(module: nn.Module | None) -> Iterator[None]:
    """Exclude the parameters of a module from training."""
    parameters = [] if module is None else [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


class _Replicator:
    """Draws one replicate of each observation: its latents from its posterior, and then data from the model.

    Args:
        model: the generative model, set up.
        network: the inference network, whose current parameters are used.
        source: observations with the arguments of those that will be replicated.
        device: where model and network are.
        at_once: the number of observations that are replicated together.

    Raises:
        ModelError: data cannot be simulated from the model; see `DataSimulator`.
    """

    def __init__(
        self, model: Model, network: InferenceNetwork, source: Batch, device: torch.device, *, at_once: int
    ) -> None:
        self._model, self._network, self._device, self._at_once = model, network, device, at_once
        with model.inference_mode():
            self._simulator = DataSimulator(model, source, device)

    def __call__(self, batch: Batch) -> Batch:
        """Return a replicate of each observation, with the same covariates, masks and masked entries."""
        with self._model.inference_mode(), evaluation_mode(self._network):
            return Batch.concatenate(
                [
                    self._replicated(batch.take(slice(part.start, part.stop)))
                    for part in spans(batch.size, self._at_once)
                ]
            )

    def _replicated(self, batch: Batch) -> Batch:
        on_device = batch.to(self._device)
        vector = self._network(on_device).sample(torch.Size([1]))
        return self._simulator.draw(on_device, self._model.latents.constrain(vector)[0])[0]
