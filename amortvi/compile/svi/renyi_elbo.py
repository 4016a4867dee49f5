r"""Renyi's bound of each observation, whatever the size of the subsample.

For an observation with weights :math:`w_k = p(x, z_k) / q(z_k)`, :math:`z_k \sim q`,

.. math::

    \frac1{1 - \alpha} \log \frac1K \sum_{k=1}^K w_k^{1 - \alpha}.

With :math:`\alpha = 0` it is the importance-weighted bound. A data set is the sum over its observations, and a subsample
of ``B`` of ``N`` estimates that sum by ``N / B`` times its own. Pyro multiplies the log-probabilities by ``N / B`` instead,
inside the logarithm of the sum over ``k``. A mean of powers is above the power of the mean, so what comes out rises with
``N / B``, above the evidence too: it is no bound of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pyro.infer
import torch
from pyro.distributions.util import is_identically_zero, scale_and_mask
from pyro.infer.util import torch_item
from pyro.util import warn_if_nan
from torch import Tensor

from amortvi.errors import ModelError
from amortvi.model.sites import Site, is_deterministic

__all__ = ["RenyiELBO"]

_PARTICLES = "num_particles_vectorized"
"""The plate that Pyro lays vectorized particles in."""


class RenyiELBO(pyro.infer.RenyiELBO):
    """Renyi's bound (Li and Turner, 2016) as Pyro's, but right for subsamples.

    An observation is an index of the plates that all latent sites share. Its weight is the sum over all sites in these
    plates, without the plates' scale; a scale of the user's own (`pyro.poutine.scale`) stays. What is observed outside of
    these plates is added to the bound. Where the latent sites share no plate, the bound is of all data together, as Pyro's.

    Args:
        alpha: the order, not one.
        num_particles: ``K``.
        max_plate_nesting: how many dimensions plates may take.
        vectorize_particles: draw all particles in one run.
        strict_enumeration_warning: as in Pyro.

    Raises:
        ValueError: ``alpha`` is one.

    Example:
        >>> RenyiELBO(alpha=0.5, num_particles=8).alpha
        0.5
    """

    @classmethod
    def like(cls, other: pyro.infer.RenyiELBO) -> RenyiELBO:
        """Return the bound with the options of Pyro's ``other``."""
        made = cls(alpha=other.alpha, num_particles=other.num_particles)
        vars(made).update(vars(other))
        return made

    @torch.no_grad()
    def loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """Estimate the negative bound."""
        loss = torch_item(self._loss(self._traces(model, guide, args, kwargs)))
        warn_if_nan(loss, "loss")
        return loss

    def loss_and_grads(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """Estimate the negative bound and leave its gradient on the parameters.

        Raises:
            ModelError: the guide has latents that are not reparameterized.
        """
        traces = self._traces(model, guide, args, kwargs)
        for _, guide_trace in traces:
            _check_reparameterized(guide_trace)
        loss = self._loss(traces)
        trainable = any(site["type"] == "param" for pair in traces for trace in pair for site in trace.nodes.values())
        if trainable and getattr(loss, "requires_grad", False):
            loss.backward()
        number = torch_item(loss)
        warn_if_nan(number, "loss")
        return number

    def _traces(self, *run: Any) -> list[tuple[Any, Any]]:
        return list(self._get_traces(*run))  # type: ignore[no-untyped-call]  # Pyro's method, not annotated

    def _loss(self, traces: list[tuple[Any, Any]]) -> Any:
        terms = [site for pair in traces for site in _terms(*pair)]
        latent = [site for _, site in terms if not site["is_observed"]]
        shared = frozenset.intersection(*map(_plates, latent)) if latent else frozenset()
        particles = [_Particle(_terms(*pair), shared) for pair in traces]
        outside = sum(particle.outside for particle in particles)
        bound = outside / self.num_particles
        for index, first in particles[0].log_weights.items():
            together = len(traces) == 1 and self.num_particles > 1
            log_weight = first if together else torch.stack([each.log_weights[index] for each in particles])
            log_mean = torch.logsumexp((1 - self.alpha) * log_weight, dim=0) - math.log(self.num_particles)
            bound = bound + particles[0].copies * log_mean.sum() / (1 - self.alpha)
        return -bound


class _Particle:
    """One run of guide and model, or all particles in one run.

    ``log_weights`` has a tensor for each turn of the loops among the shared plates: first the particles if they are in one
    run, then the vectorized plates in the order of their names.
    """

    def __init__(self, terms: list[tuple[int, Site]], shared: frozenset[str]) -> None:
        self.log_weights: dict[tuple[int, ...], Any] = {}
        self.outside: Any = 0.0
        self.copies = 1.0
        for sign, site in terms:
            if not shared <= _plates(site):
                self.outside = self.outside + sign * site["log_prob"].sum()
                continue
            frames = sorted((f for f in site["cond_indep_stack"] if f.name in shared), key=lambda frame: frame.name)
            self.copies = math.prod(frame.full_size / frame.size for frame in frames)
            scale = site["scale"] if self.copies == 1 else site["scale"] / self.copies
            log_prob = scale_and_mask(site["unscaled_log_prob"], scale=scale, mask=site["mask"])
            particles = [frame.dim for frame in site["cond_indep_stack"] if frame.name == _PARTICLES]
            kept = _summed(log_prob, particles + [frame.dim for frame in frames if frame.vectorized])
            index = tuple(frame.counter for frame in frames if not frame.vectorized)
            self.log_weights[index] = self.log_weights.get(index, 0.0) + sign * kept


def _terms(model_trace: Any, guide_trace: Any) -> list[tuple[int, Site]]:
    """The sites whose log-probabilities make up ``log p - log q``, each with its sign."""
    return [(sign, site) for sign, trace in ((1, model_trace), (-1, guide_trace)) for site in _samples(trace)]


def _samples(trace: Any) -> Iterator[Site]:
    return (site for site in trace.nodes.values() if site["type"] == "sample" and not is_deterministic(site))


def _plates(site: Site) -> frozenset[str]:
    return frozenset(frame.name for frame in site["cond_indep_stack"]) - {_PARTICLES}


def _summed(log_prob: Tensor, dims: list[int]) -> Tensor:
    """Sum over all dimensions but ``dims`` (negative), which come in their order."""
    missing = max([-dim for dim in dims], default=0) - log_prob.dim()
    full = log_prob.reshape((1,) * missing + tuple(log_prob.shape)) if missing > 0 else log_prob
    rest = [dim for dim in range(-full.dim(), 0) if dim not in dims]
    ordered = full.permute([*dims, *rest])
    return ordered.reshape(*ordered.shape[: len(dims)], -1).sum(-1)


def _check_reparameterized(guide_trace: Any) -> None:
    for site in _samples(guide_trace):
        score = site["score_parts"].score_function
        if not is_identically_zero(score) and getattr(score, "requires_grad", False):
            raise ModelError(
                f"RenyiELBO needs a guide whose draws can be differentiated; site {site['name']!r} draws from "
                f"{type(site['fn']).__name__}, whose cannot. Take Trace_ELBO, or a continuous latent."
            )
