"""Supports of latent sites: whether unconstrained numbers can reach them, and whether they are the same for all observations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import biject_to, constraints

from amortvi.errors import ModelError
from amortvi.model.plates import PlateLayout

__all__ = ["fixed_support", "has_bijection"]

_BOUNDS = ("lower_bound", "upper_bound")


def has_bijection(support: constraints.Constraint) -> bool:
    """Whether PyTorch has a bijection from unconstrained numbers to ``support``."""
    try:
        return bool(biject_to(support).bijective)
    except NotImplementedError:  # no transform is registered for this support
        return False


def fixed_support(name: str, support: constraints.Constraint, layout: PlateLayout) -> constraints.Constraint:
    """Return the elementwise ``support`` of one observation, its tensor bounds in observation layout.

    A distribution such as ``Uniform`` has bounds expanded over every plate. They describe the latent of one observation
    only if they are equal for all observations.

    Args:
        name: the name of the site.
        support: the support of the distribution.
        layout: the plates around the site.

    Raises:
        ModelError: a bound is trained, or differs between observations.
    """
    if isinstance(support, constraints.independent):
        return fixed_support(name, support.base_constraint, layout)
    tensor_bounds = [bound for bound in _BOUNDS if isinstance(getattr(support, bound, None), Tensor)]
    if not tensor_bounds:
        return support
    arguments = []
    for attribute in (bound for bound in _BOUNDS if hasattr(support, bound)):
        value = getattr(support, attribute)
        if attribute in tensor_bounds and value.requires_grad:
            raise ModelError(
                f"the support of latent site {name!r} has a trainable bound ({attribute}), so the posterior would leave it as "
                f"the bound moves: sample a site with a fixed support, and shift and scale it in the model."
            )
        if attribute in tensor_bounds and value.dim() > 0:
            rows = layout.to_observations(value.detach())
            if not torch.equal(rows, rows[:1].expand_as(rows)):
                raise ModelError(
                    f"the support of latent site {name!r} differs between observations ({attribute} depends on the data), so "
                    f"no single posterior family covers it: sample a site with a fixed support, and shift and scale it in "
                    f"the model."
                )
            value = rows[0]
        arguments.append(value)
    return type(support)(*arguments)
