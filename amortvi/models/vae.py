"""The variational autoencoder's generative half."""

from __future__ import annotations

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor, nn

from amortvi._checks import positive_int
from amortvi.models.likelihoods import Likelihood, make_likelihood

__all__ = ["VAE"]


class VAE(PyroModule):
    """``z ~ N(0, I)``, ``x | z ~ likelihood(decoder(z))``, independent entries given ``z`` (Kingma and Welling, 2014).

    Args:
        decoder: an `nn.Module` from ``(B, latent_dim)`` to what the likelihood takes: one number for each entry of ``x``,
            for ``"categorical"`` one for each entry and class.
        latent_dim: the number of latent dimensions.
        likelihood: ``"bernoulli"``, ``"normal"`` (with a learned scale), ``"categorical"``, ``"poisson"``, or a
            `Likelihood`.

    Raises:
        OptionError: ``latent_dim`` is not a positive integer, or the likelihood is unknown.

    Example:
        >>> import torch
        >>> model = VAE(torch.nn.Linear(2, 64), latent_dim=2, likelihood="poisson")
        >>> model.decode(torch.zeros(3, 2)).shape
        torch.Size([3, 64])
    """

    def __init__(self, decoder: nn.Module, latent_dim: int, likelihood: str | Likelihood = "bernoulli") -> None:
        super().__init__()
        self.latent_dim = positive_int("latent_dim", latent_dim)
        self.likelihood = make_likelihood(likelihood)
        self.decoder = decoder

    def forward(self, x: Tensor) -> Tensor:
        """Run the Pyro model on ``x`` of shape ``(B, *event)`` and return its sites ``"z"`` given ``"x"``.

        The sites are ``"z"``, ``(B, latent_dim)``, and ``"x"``, in the plate ``"data"``.
        """
        standard = torch.zeros(self.latent_dim, dtype=self._dtype(), device=x.device)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(standard, torch.ones_like(standard)).to_event(1))
            entries = self.likelihood(self._decoded(z, x.shape))
            pyro.sample("x", entries.to_event(x.dim() - 1), obs=x)
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Return the mean of ``x`` given ``z``: ``(B, latent_dim) -> (B, *event)``; class probabilities for categories.

        No gradients are kept.
        """
        with torch.no_grad():
            entries = self.likelihood(self.decoder(z))
            return entries.probs if entries.mean.isnan().any() else entries.mean

    def _decoded(self, z: Tensor, shape: torch.Size) -> Tensor:
        """The decoder's output, laid out as ``x`` is: decoders end in a flat layer, observations may be images."""
        decoded = self.decoder(z)
        entries = shape[1:].numel()
        per_observation = decoded.shape[1:].numel()
        if decoded.dim() == len(shape) or per_observation % entries:
            return decoded
        classes = (per_observation // entries,) if per_observation != entries else ()
        return decoded.reshape(decoded.shape[0], *shape[1:], *classes)

    def _dtype(self) -> torch.dtype:
        return next((p.dtype for p in self.parameters()), torch.get_default_dtype())
