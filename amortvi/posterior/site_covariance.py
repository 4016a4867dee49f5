r"""The covariance of the latent sites in their own support.

For jointly normal coordinates :math:`u` and elementwise transforms :math:`v_i = T_i(u_i)`, Mehler's formula (Kibble, 1945) gives

.. math::

    \operatorname{Cov}(v_i, v_j) = \sum_{n \ge 1} \rho_{ij}^n c_{in} c_{jn}, \qquad
    c_{in} = E\bigl[T_i(\mu_i + \sigma_i \epsilon)\, h_n(\epsilon)\bigr], \quad \epsilon \sim N(0, 1),

with the correlations :math:`\rho` of :math:`u` and the orthonormal Hermite polynomials :math:`h_n`. The coefficients are computed
by Gauss-Hermite quadrature, with as many polynomials as nodes; the variances then equal those of the quadrature, and each term
is positive semidefinite. Everything else (a simplex, a flow) is estimated from draws.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, Normal

from amortvi.families import covariance, marginals
from amortvi.model import LatentVector
from amortvi.posterior.moments import DRAWS, QUADRATURE_NODES, quadrature

__all__ = ["site_covariance"]


def site_covariance(latents: LatentVector, q: Distribution) -> Tensor:
    """Return the covariance of the elements of all latent sites in their own support, ``(B, elements, elements)``."""
    known, marginal = covariance(q), marginals(q)
    if known is not None and all(site.is_unconstrained for site in latents.sites):
        return known
    if known is not None and isinstance(marginal, Normal) and all(site.is_elementwise for site in latents.sites):
        return _by_quadrature(latents, marginal, known)
    values, _ = latents.constrain(q.sample(torch.Size([DRAWS])))
    flat = torch.cat([values[site.name].reshape(*values[site.name].shape[:2], -1) for site in latents.sites], dim=-1)
    centered = flat - flat.mean(0)
    return torch.einsum("kbi,kbj->bij", centered, centered) / (DRAWS - 1)


def _by_quadrature(latents: LatentVector, marginal: Normal, known: Tensor) -> Tensor:
    means, stds = latents.split(marginal.mean), latents.split(marginal.stddev)
    found = [quadrature(site, means[site.name], stds[site.name]) for site in latents.sites]
    weights = found[0][1]
    values = torch.cat([each.reshape(*each.shape[:2], -1) for each, _ in found], dim=-1)
    values = values - torch.einsum("q,qbi->bi", weights, values)
    polynomials = torch.as_tensor(_hermite_polynomials(), dtype=values.dtype, device=values.device)
    coefficients = torch.einsum("nq,q,qbi->nbi", polynomials, weights, values)
    std = known.diagonal(dim1=-2, dim2=-1).to(values).sqrt()
    correlation = known.to(values) / std.unsqueeze(-1) / std.unsqueeze(-2)
    power, result = torch.ones_like(correlation), torch.zeros_like(correlation)
    for coefficient in coefficients:
        power = power * correlation
        result = result + power * coefficient.unsqueeze(-1) * coefficient.unsqueeze(-2)
    return result.to(known)


def _hermite_polynomials() -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return the orthonormal Hermite polynomials of degree 1 and above at the nodes of the quadrature."""
    nodes, _ = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
    found = [np.ones_like(nodes), nodes]
    for n in range(1, QUADRATURE_NODES - 1):
        found.append((nodes * found[n] - np.sqrt(n) * found[n - 1]) / np.sqrt(n + 1))
    return np.stack(found[1:])
