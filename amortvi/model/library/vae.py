"""The generative model of a variational autoencoder."""

from __future__ import annotations

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from amortvi._util.checks import positive_int
from amortvi.errors import ModelError, OptionError
from amortvi.model.library.likelihoods import Likelihood, make_likelihood

__all__ = ["VAE"]


class VAE(PyroModule):
    """``z ~ N(0, I)``, ``x | z ~ likelihood(decoder(z))``, with independent entries given ``z`` (Kingma and Welling, 2014).

    Args:
        decoder: an `nn.Module` that maps ``(B, latent_dim)`` to the parameters of the likelihood: one value per entry of ``x``
            or, for ``"categorical"``, one per entry and class. The output may be flat even if ``x`` is an image.
        latent_dim: the number of latent dimensions.
        likelihood: ``"bernoulli"``, ``"normal"`` (with a learned scale), ``"categorical"``, ``"poisson"``, or a `Likelihood`.

    Raises:
        OptionError: ``latent_dim`` is not a positive integer, the decoder is not an `nn.Module`, or the likelihood is unknown.

    Example:
        >>> import torch
        >>> model = VAE(torch.nn.Linear(2, 64), latent_dim=2, likelihood="poisson")
        >>> model.decode(torch.zeros(3, 2)).shape
        torch.Size([3, 64])
    """

    def __init__(self, decoder: nn.Module, latent_dim: int, likelihood: str | Likelihood = "bernoulli") -> None:
        super().__init__()
        if not isinstance(decoder, nn.Module):
            raise OptionError(f"decoder must be an nn.Module that accepts latents (B, latent_dim); got {decoder!r}.")
        self.latent_dim = positive_int("latent_dim", latent_dim)
        self.likelihood = make_likelihood(likelihood)
        self.decoder = decoder
        self._event: torch.Size | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Run the Pyro model on ``x`` of shape ``(B, *event)``: sites ``"z"`` and ``"x"`` in the plate ``"data"``.

        Returns:
            The value of ``"z"``, ``(B, latent_dim)``.

        Raises:
            ModelError: the shape of the decoder's output does not match ``x``.
        """
        self._event = x.shape[1:]
        dtype = next((p.dtype for p in self.parameters()), torch.get_default_dtype())
        standard = torch.zeros(self.latent_dim, dtype=dtype, device=x.device)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(standard, torch.ones_like(standard)).to_event(1))
            decoded = self._decoded(z)
            entries = self.likelihood(decoded)
            if entries.batch_shape != z.shape[:-1] + self._event:
                raise self._shape_error(decoded.shape[z.dim() - 1 :])
            pyro.sample("x", entries.to_event(len(self._event)), obs=x)
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of ``x`` given ``z``, without gradients.

        Args:
            z: latents, ``(*B, latent_dim)``.

        Returns:
            ``(*B, *event)`` with the event shape of the data or, before the model has seen data, of the decoder's output. For
            a categorical likelihood, the probability of each class, ``(*B, *event, K)``.

        Raises:
            ModelError: the shape of the decoder's output does not match the data.
        """
        with torch.no_grad():
            return self.likelihood.mean(self._decoded(z))

    def _decoded(self, z: Tensor) -> Tensor:
        """Decode ``z``, ``(*B, latent_dim)``, to the layout of ``x``, ``(*B, *event[, K])``."""
        # A decoder may accept only one batch dimension, as convolutions do.
        decoded = self.decoder(z.reshape(-1, self.latent_dim))
        return decoded.reshape(*z.shape[:-1], *self._layout(decoded.shape[1:]))

    def _layout(self, output: torch.Size) -> tuple[int, ...]:
        """Return the shape of the decoder's output for one observation in the layout of ``x``, with the classes last."""
        event = self._event
        if event is None or output.numel() == event.numel():
            return tuple(output if event is None else event)
        flat = len(output) == 1 and output.numel() % event.numel() == 0
        by_class = output[:-1] == event or (len(event) == 1 and output[:-1].numel() == event.numel())
        if not flat and not by_class:
            raise self._shape_error(output)
        return (*event, output.numel() // event.numel())

    def _shape_error(self, output: torch.Size) -> ModelError:
        return ModelError(
            f"the decoder returns shape {tuple(output)} per observation, which does not match x of shape "
            f"{tuple(self._event or ())} for the likelihood {type(self.likelihood).__name__}: it must return one value per entry "
            f"of x or, for a categorical likelihood, one per entry and class, with the classes last."
        )
