r"""Probabilistic PCA, whose posterior and evidence are known in closed form.

.. math::

    z \sim N(0, I), \quad x \mid z \sim N(W z + b, s^2 I)
    \;\Rightarrow\;
    z \mid x \sim N\bigl(M^{-1} W^\top (x - b) / s^2,\; M^{-1}\bigr), \quad M = I + W^\top W / s^2,
    \quad x \sim N(b,\; W W^\top + s^2 I)

(Tipping and Bishop, 1999). With a linear encoder and full covariance, the ELBO reaches :math:`\log p(x)`. The best diagonal
posterior has variances :math:`1 / M_{ii}`, and its ELBO is lower by
:math:`\tfrac12 (\sum_i \log M_{ii} - \log\det M)` for every ``x``.
"""

from __future__ import annotations

import pyro
import torch
from pyro import distributions as dist
from pyro.nn import PyroModule
from torch import Tensor

from amortvi._util.checks import positive_float, positive_int
from amortvi._util.random import random_state
from amortvi.errors import OptionError

__all__ = ["LinearGaussian"]


class LinearGaussian(PyroModule):
    """``z ~ N(0, I)``, ``x | z ~ N(W z + bias, scale^2 I)``, with fixed parameters.

    Args:
        W: the loadings, ``(features, latents)``.
        scale: the standard deviation of the noise.
        bias: the mean of ``x``, ``(features,)``; zero by default.

    Raises:
        OptionError: ``W`` is not a finite floating-point matrix, ``bias`` does not match it, or ``scale`` is not positive.

    Example:
        >>> import torch
        >>> model = LinearGaussian(torch.tensor([[1.0], [1.0]]), scale=1.0)
        >>> model.posterior(torch.tensor([[3.0, 0.0]])).mean
        tensor([[1.]])
    """

    W: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, W: Tensor, scale: float, bias: Tensor | None = None) -> None:
        super().__init__()
        _check_floating("W", W)
        if W.dim() != 2 or W.numel() == 0:
            raise OptionError(f"W must be a matrix (features, latents); got shape {tuple(W.shape)}.")
        bias = W.new_zeros(W.shape[0]) if bias is None else bias
        _check_floating("bias", bias)
        if bias.shape != W.shape[:1]:
            raise OptionError(f"bias must have shape ({W.shape[0]},); got {tuple(bias.shape)}.")
        self.register_buffer("W", W.detach().clone())
        self.register_buffer("bias", bias.detach().clone().to(W))
        self.register_buffer("scale", W.new_tensor(positive_float("scale", scale)))

    @property
    def latent_dim(self) -> int:
        """The number of latent dimensions."""
        return self.W.shape[1]

    def forward(self, x: Tensor) -> Tensor:
        """Run the Pyro model on ``x`` of shape ``(B, features)``: sites ``"z"`` and ``"x"`` in the plate ``"data"``."""
        standard = torch.zeros_like(self.W[0])
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(standard, torch.ones_like(standard)).to_event(1))
            pyro.sample("x", dist.Normal(z @ self.W.mT + self.bias, self.scale).to_event(1), obs=x)
        return z

    def simulate(self, observations: int, *, seed: int | None = None) -> Tensor:
        """Draw ``x`` from the model, ``(observations, features)``.

        Args:
            observations: the number of observations.
            seed: reproduces the draws and leaves the caller's random state untouched.

        Raises:
            OptionError: ``observations`` is not a positive integer, or the seed is out of range.
        """
        count = positive_int("observations", observations)
        with random_state(seed):
            z = torch.randn(count, self.latent_dim, dtype=self.W.dtype)
            noise = torch.randn(count, self.W.shape[0], dtype=self.W.dtype)
        return z.to(self.W) @ self.W.mT + self.bias + self.scale * noise.to(self.W)

    def precision(self) -> Tensor:
        """Return the posterior precision ``M = I + W'W / scale^2``, the same for every ``x``, ``(latents, latents)``."""
        identity = torch.eye(self.latent_dim, dtype=self.W.dtype, device=self.W.device)
        return identity + self.W.mT @ self.W / self.scale.square()

    def posterior(self, x: Tensor) -> torch.distributions.MultivariateNormal:
        """Return the exact posterior of each row of ``x``: batch shape ``(B,)``, event shape ``(latents,)``."""
        precision = self.precision()
        mean = torch.linalg.solve(precision, self.W.mT @ (x - self.bias).mT / self.scale.square()).mT
        return torch.distributions.MultivariateNormal(mean, precision_matrix=precision)

    def log_evidence(self, x: Tensor) -> Tensor:
        """Return the exact ``log p(x)`` of each row in nats, ``(B,)``."""
        features = self.W.shape[0]
        noise = self.scale.square() * torch.eye(features, dtype=self.W.dtype, device=self.W.device)
        return torch.distributions.MultivariateNormal(self.bias, self.W @ self.W.mT + noise).log_prob(x)

    def diagonal_gap(self) -> float:
        """Return the gap in nats between the evidence and the ELBO of the best diagonal posterior, the same for every ``x``."""
        precision = self.precision()
        return float(0.5 * (precision.diagonal().log().sum() - torch.logdet(precision)))


def _check_floating(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        got = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise OptionError(f"{name} must be a floating-point tensor; got {got}.")
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise OptionError(f"{name} must be finite; {bad} of its elements are NaN or infinite.")
