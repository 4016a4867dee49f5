"""The modules that a fit trains, and snapshots of the state that it changes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amortvi._util.modes import evaluation_mode
from amortvi.data import Observations
from amortvi.errors import ModelError
from amortvi.model import Model
from amortvi.posterior import InferenceNetwork

__all__ = ["OptimizerSnapshot", "Snapshot", "TrainedModules", "advance_schedule", "load_optimizer_state"]


class TrainedModules:
    """The model and the inference network of a fit, both set up.

    Attributes:
        parts: all submodules of both, without duplicates.
        tensors: all parameters and buffers of both, without duplicates.
        parameters: the parameters that are trained.
    """

    def __init__(self, model: Model, network: InferenceNetwork, *, freeze_model: bool) -> None:
        self.model = model
        self.network = network
        self.freeze_model = freeze_model
        self.parts: list[nn.Module] = list(dict.fromkeys(part for each in self.modules for part in each.modules()))
        tensors = (t for each in self.modules for t in (*each.parameters(), *each.buffers()))
        self.tensors: list[Tensor] = list({id(tensor): tensor for tensor in tensors}.values())
        trained = {id(p): p for module in self.trained for p in module.parameters() if p.requires_grad}
        self.parameters: list[nn.Parameter] = list(trained.values())

    @property
    def modules(self) -> tuple[nn.Module, nn.Module]:
        """The model and the network."""
        return self.model, self.network

    @property
    def trained(self) -> tuple[nn.Module, ...]:
        """The network, and the model unless it is frozen."""
        return (self.network,) if self.freeze_model else self.modules

    def check_separate(self, observations: Observations, device: torch.device) -> None:
        """Raise `ModelError` if a frozen model uses parameters of the network, which are trained.

        A model may contain the encoder without using it, which a run of the model on one observation shows.
        """
        own = {id(parameter) for parameter in self.parameters}
        shared = {name: p for name, p in self.model.program.named_parameters() if id(p) in own}
        if not self.freeze_model or not shared:
            return
        batch = observations.first(1).take(slice(0, 1)).to(device)
        with torch.enable_grad(), evaluation_mode(self.model), self.model.program.own_parameters():
            vector = next(iter(shared.values())).new_zeros(1, batch.size, self.model.latents.dim)
            density = self.model.log_joint(batch, vector).sum()
            found = (
                torch.autograd.grad(density, list(shared.values()), allow_unused=True) if density.requires_grad else ()
            )
        used = [name for name, gradient in zip(shared, found, strict=False) if gradient is not None]
        if used:
            raise ModelError(
                f"the model is not to be trained, but the encoder, which is, shares {', '.join(used)} with it: give the encoder "
                f"parameters of its own, such as a copy of them."
            )

    def train(self) -> None:
        """Set the network to training mode, and the model too unless it is frozen."""
        self.model.train(not self.freeze_model)
        self.network.train()

    def parameter_names(self) -> dict[int, str]:
        """Return the name of each parameter in the user's modules, by its ``id``."""
        named = (*self.model.program.named_parameters(), *self.network.named_parameters())
        return {id(parameter): name for name, parameter in named}


class Snapshot:
    """A copy of the values of parameters and buffers.

    Args:
        tensors: the parameters and buffers.
        values: the values to restore; by default the current ones.
    """

    def __init__(self, tensors: Sequence[Tensor], values: Sequence[Tensor] | None = None) -> None:
        self._live = tensors
        self.values = [tensor.detach().clone() for tensor in (tensors if values is None else values)]

    def restore(self) -> None:
        """Write the values back."""
        with torch.no_grad():
            for live, saved in zip(self._live, self.values, strict=True):
                live.copy_(saved)


class OptimizerSnapshot:
    """A copy of the state of an optimizer: running averages and step counts."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._saved = {parameter: _copied(state) for parameter, state in optimizer.state.items()}

    def restore(self) -> None:
        """Write the state back, and delete the state of parameters that had none."""
        for parameter in self._optimizer.state.keys() - self._saved.keys():
            del self._optimizer.state[parameter]
        for parameter, saved in self._saved.items():
            state = self._optimizer.state[parameter]
            for name, value in _copied(saved).items():
                # In place if possible, because compiled steps hold references to these tensors.
                live = state.get(name)
                if isinstance(live, Tensor) and isinstance(value, Tensor) and live.shape == value.shape:
                    live.copy_(value)
                else:
                    state[name] = value
        self._optimizer.zero_grad(set_to_none=True)


def advance_schedule(schedule: Any, elbo: float) -> None:
    """Take the step of a learning-rate schedule, if there is one, after an epoch with this bound."""
    if isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau):
        schedule.step(-elbo)
    elif schedule is not None:
        schedule.step()


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the result of ``state_dict`` exactly: ``load_state_dict`` casts what is not a step counter to the parameters' type."""
    # Without what torch wraps around the method, which takes seconds to import torch._dynamo.
    inspect.unwrap(type(optimizer).load_state_dict)(optimizer, state)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, saved in state["state"].items():
        live = optimizer.state[parameters[number]]
        for name, value in saved.items():
            if isinstance(value, Tensor) and value.dtype != live[name].dtype:
                live[name] = value.detach().clone().to(live[name].device)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value) for name, value in state.items()}
