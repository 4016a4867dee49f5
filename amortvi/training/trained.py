"""What a fit trains, listed once: walking through modules at every epoch would take longer than some epochs."""

from __future__ import annotations

from torch import Tensor, nn

from amortvi.model import Model
from amortvi.posterior import InferenceNetwork

__all__ = ["TrainedModules"]


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
