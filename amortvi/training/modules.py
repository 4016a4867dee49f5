"""What a fit trains, and copies of what it changes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from amortvi.model import Model
from amortvi.posterior import InferenceNetwork

__all__ = ["OptimizerSnapshot", "Snapshot", "TrainedModules"]


class TrainedModules:
    """The model and the inference network of a fit.

    Args:
        model: the generative model, set up.
        network: the inference network, set up.
        freeze_model: whether only the network is trained.

    Attributes:
        parts: every submodule of both, once.
        tensors: every parameter and buffer of both, once.
        parameters: the parameters that are trained.
    """

    def __init__(self, model: Model, network: InferenceNetwork, *, freeze_model: bool) -> None:
        self.model = model
        self.network = network
        self.freeze_model = freeze_model
        modules: tuple[nn.Module, ...] = (model, network)
        self.parts: list[nn.Module] = list(dict.fromkeys(part for module in modules for part in module.modules()))
        tensors = (t for module in modules for t in (*module.parameters(), *module.buffers()))
        self.tensors: list[Tensor] = list({id(tensor): tensor for tensor in tensors}.values())
        trained = {id(p): p for module in self.trained for p in module.parameters() if p.requires_grad}
        self.parameters: list[nn.Parameter] = list(trained.values())

    @property
    def modules(self) -> tuple[nn.Module, nn.Module]:
        """Model and network."""
        return self.model, self.network

    @property
    def trained(self) -> tuple[nn.Module, ...]:
        """Those of the two that are trained."""
        return (self.network,) if self.freeze_model else self.modules

    def train(self) -> None:
        """Put what is trained in training mode, and the rest in evaluation mode."""
        self.model.train(not self.freeze_model)
        self.network.train()

    def parameter_names(self) -> dict[int, str]:
        """Return the name of each parameter, as the user knows it, by its ``id``."""
        named = (*self.model.program.named_parameters(), *self.network.named_parameters())
        return {id(parameter): name for name, parameter in named}


class Snapshot:
    """The values of some tensors at one moment.

    Args:
        tensors: the parameters and buffers of a fit.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._live = tensors
        self._saved = [tensor.detach().clone() for tensor in tensors]

    def restore(self) -> None:
        """Write the values back."""
        with torch.no_grad():
            for live, saved in zip(self._live, self._saved, strict=True):
                live.copy_(saved)


class OptimizerSnapshot:
    """The state of an optimizer at one moment: running averages and step counts.

    Args:
        optimizer: the optimizer.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._saved = {parameter: _copied(state) for parameter, state in optimizer.state.items()}

    def restore(self) -> None:
        """Write the state back, and delete that of parameters which had none."""
        for parameter, state in list(self._optimizer.state.items()):
            saved = self._saved.get(parameter)
            if saved is None:
                del self._optimizer.state[parameter]
                continue
            for name, value in _copied(saved).items():
                # In place if possible, because a compiled step writes to that very tensor.
                live = state.get(name)
                if isinstance(live, Tensor) and isinstance(value, Tensor) and live.shape == value.shape:
                    live.copy_(value)
                else:
                    state[name] = value
        self._optimizer.zero_grad(set_to_none=True)


def _copied(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value) for name, value in state.items()}
