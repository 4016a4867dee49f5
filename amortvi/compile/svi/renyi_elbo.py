r"""Renyi's bound for each observation, correct for subsamples of any size.

For an observation with weights :math:`w_k = p(x, z_k) / q(z_k)`, :math:`z_k \sim q`, the bound is

.. math::

    \frac1{1 - \alpha} \log \frac1K \sum_{k=1}^K w_k^{1 - \alpha}.

For :math:`\alpha = 0` this is the importance-weighted bound. The bound of a data set is the sum over its observations, and a
subsample of ``B`` out of ``N`` observations estimates it by ``N / B`` times its own sum. Pyro instead multiplies the log
probabilities by ``N / B`` inside the logarithm of the sum over ``k``. A mean of powers exceeds the power of the mean, so that
Pyro's estimate grows with ``N / B`` and can exceed the log evidence: it is not a bound.

Latents that are not reparameterized enter the gradient through their scores :math:`\nabla \log q(z_k)`, each multiplied by the
difference between the bound and the same bound with the mean of the other log weights in place of :math:`\log w_k`. This control
variate does not change the expectation (Mnih and Rezende, 2016).
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

__all__ = ["RenyiELBO"]

_PARTICLES = "num_particles_vectorized"
"""The name of the plate in which Pyro draws vectorized particles."""


class RenyiELBO(pyro.infer.RenyiELBO):
    """Renyi's bound (Li and Turner, 2016) with the interface of `pyro.infer.RenyiELBO`, but correct for subsamples.

    The plates that all latent sites share index the observations. The log weight of an observation is the sum over all sites in
    these plates, without the scale of the plates but with scales set by the user (`pyro.poutine.scale`). Observed sites outside
    these plates are added to the bound. If the latent sites share no plate, the bound is that of all data together, as in Pyro.

    Args:
        alpha: the order; any number except one.
        num_particles: ``K``.
        max_plate_nesting: the number of dimensions reserved for plates.
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
        """Return this bound with the options of one of Pyro's, and with what they are changed to later."""
        made = cls(alpha=other.alpha, num_particles=other.num_particles)
        made.__dict__ = vars(other)
        return made

    @torch.no_grad()
    def loss(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """Return an estimate of the negative bound."""
        bound, _ = self._bound(self._traces(model, guide, args, kwargs))
        loss = -torch_item(bound)
        warn_if_nan(loss, "loss")
        return loss

    def loss_and_grads(self, model: Callable[..., Any], guide: Callable[..., Any], *args: Any, **kwargs: Any) -> float:
        """Return an estimate of the negative bound, and add its gradient to the gradients of the parameters."""
        traces = self._traces(model, guide, args, kwargs)
        bound, surrogate = self._bound(traces)
        trainable = any(site["type"] == "param" for pair in traces for trace in pair for site in trace.nodes.values())
        if trainable and getattr(surrogate, "requires_grad", False):
            (-surrogate).backward()
        value = -torch_item(bound)
        warn_if_nan(value, "loss")
        return value

    def _traces(self, *run: Any) -> list[tuple[Any, Any]]:
        return list(self._get_traces(*run))  # type: ignore[no-untyped-call]  # Pyro's method is not annotated

    def _bound(self, traces: list[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Return an estimate of the bound, and a quantity whose gradient estimates that of the bound."""
        sites = [site for pair in traces for _, site in _signed_sites(*pair)]
        latent = [_plates(site) for site in sites if not site["is_observed"]]
        shared = frozenset.intersection(*latent) if latent else frozenset()
        particles = [_Particle(_signed_sites(*pair), shared) for pair in traces]
        outside = sum(particle.outside for particle in particles) / self.num_particles
        bound, scores = outside, 0.0
        for index in particles[0].log_weights:
            log_weight = self._stacked([each.log_weights[index] for each in particles])
            bounds = particles[0].subsampling * self._log_means(log_weight)
            bound = bound + bounds.sum()
            if any(index in each.scores for each in particles):
                score = self._stacked(
                    [each.scores.get(index, torch.zeros_like(each.log_weights[index])) for each in particles]
                )
                control = particles[0].subsampling * self._log_means_without_each(log_weight)
                scores = scores + ((bounds + outside - control).detach() * score).sum()
        return bound, bound + scores

    def _stacked(self, values: list[Tensor]) -> Tensor:
        """Return the values of all particles along a first dimension; one run may already have drawn all of them."""
        return values[0] if len(values) == 1 and self.num_particles > 1 else torch.stack(values)

    def _log_means(self, log_weight: Tensor) -> Tensor:
        log_sum = torch.logsumexp((1 - self.alpha) * log_weight, dim=0)
        return (log_sum - math.log(self.num_particles)) / (1 - self.alpha)

    def _log_means_without_each(self, log_weight: Tensor) -> Tensor:
        """Replace each log weight in turn by the mean of the others; zero for one particle."""
        count = self.num_particles
        if count == 1:
            return torch.zeros_like(log_weight)
        others = (log_weight.sum(0) - log_weight) / (count - 1)
        is_replaced = torch.eye(count, dtype=torch.bool, device=log_weight.device)
        is_replaced = is_replaced.reshape(count, count, *(1,) * (log_weight.dim() - 1))
        return self._log_means(torch.where(is_replaced, others, log_weight.unsqueeze(1)))


class _Particle:
    """The log weights of one run of guide and model, or of all particles drawn in one run.

    Args:
        sites: the sites of the run, each with its sign in ``log p - log q``.
        shared: the plates that all latent sites share.
    """

    def __init__(self, sites: list[tuple[int, Any]], shared: frozenset[str]) -> None:
        # One tensor for each combination of indices of the sequential plates in `shared`. Its dimensions are the particles, if
        # they are vectorized, and then the vectorized plates in the order of their names.
        self.log_weights: dict[tuple[int, ...], Any] = {}
        self.scores: dict[tuple[int, ...], Any] = {}  # likewise, the log q of latents with scores
        self.outside: Any = 0.0  # the log probability of the sites outside the shared plates
        self.subsampling = 1.0  # N / B
        for sign, site in sites:
            if not shared <= _plates(site):
                self.outside = self.outside + sign * site["log_prob"].sum()
                continue
            frames = sorted((f for f in site["cond_indep_stack"] if f.name in shared), key=lambda frame: frame.name)
            self.subsampling = math.prod(frame.full_size / frame.size for frame in frames)
            scale = site["scale"] if self.subsampling == 1 else site["scale"] / self.subsampling
            log_prob = scale_and_mask(site["unscaled_log_prob"], scale=scale, mask=site["mask"])
            particles = [frame.dim for frame in site["cond_indep_stack"] if frame.name == _PARTICLES]
            dims = particles + [frame.dim for frame in frames if frame.vectorized]
            index = tuple(frame.counter for frame in frames if not frame.vectorized)
            self.log_weights[index] = self.log_weights.get(index, 0.0) + sign * _sum_except(log_prob, dims)
            score: Any = 0.0 if sign > 0 else site["score_parts"].score_function
            if not is_identically_zero(score):
                self.scores[index] = self.scores.get(index, 0.0) + _sum_except(score, dims)


def _signed_sites(model_trace: Any, guide_trace: Any) -> list[tuple[int, Any]]:
    """Return the sites whose log probabilities make up ``log p - log q``, each with its sign."""
    return [(sign, site) for sign, trace in ((1, model_trace), (-1, guide_trace)) for site in _sample_sites(trace)]


def _sample_sites(trace: Any) -> Iterator[Any]:
    """Return all sample sites except those of ``pyro.deterministic``."""
    for site in trace.nodes.values():
        if site["type"] == "sample" and not site["infer"].get("_deterministic"):
            yield site


def _plates(site: Any) -> frozenset[str]:
    return frozenset(frame.name for frame in site["cond_indep_stack"]) - {_PARTICLES}


def _sum_except(log_prob: Tensor, dims: list[int]) -> Tensor:
    """Sum over all dimensions except ``dims``, which are negative, and return ``dims`` in the given order."""
    missing = max([-dim for dim in dims], default=0) - log_prob.dim()
    full = log_prob.reshape((1,) * missing + tuple(log_prob.shape)) if missing > 0 else log_prob
    rest = [dim for dim in range(-full.dim(), 0) if dim not in dims]
    ordered = full.permute([*dims, *rest])
    return ordered.reshape(*ordered.shape[: len(dims)], -1).sum(-1)
