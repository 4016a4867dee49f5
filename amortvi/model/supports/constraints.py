"""Supports: what is inside wrappers and mixtures, and the support that all observations share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro.distributions.mixture import MaskedConstraint
from torch import Tensor
from torch.distributions import biject_to, constraints

from amortvi.errors import ModelError
from amortvi.model.plates import PlateLayout

__all__ = [
    "common_support",
    "fixed_global_support",
    "fixed_support",
    "has_bijection",
    "has_tensor_bounds",
    "inner_support",
    "same_bounds",
    "tensor_bounds",
]

_WRAPPERS: Any = (constraints.independent, constraints.MixtureSameFamilyConstraint)
_BOUNDS = ("lower_bound", "upper_bound")


def has_bijection(support: constraints.Constraint) -> bool:
    """Whether PyTorch has a bijection from unconstrained numbers to ``support``."""
    try:
        return bool(biject_to(support).bijective)
    except NotImplementedError:  # no transform is registered for this support
        return False


def inner_support(support: constraints.Constraint) -> constraints.Constraint:
    """Return the support inside ``to_event`` and mixtures."""
    while isinstance(support, _WRAPPERS):
        support = support.base_constraint
    return support


def tensor_bounds(support: constraints.Constraint) -> dict[str, Tensor]:
    """Return the bounds of a support without wrappers that are tensors, by name."""
    bounds = {name: getattr(support, name, None) for name in _BOUNDS}
    return {name: value for name, value in bounds.items() if isinstance(value, Tensor)}


def has_tensor_bounds(support: constraints.Constraint) -> bool:
    """Whether the bounds of ``support`` are tensors, which may depend on the latents or the parameters."""
    return any(isinstance(bound, Tensor) for bound in vars(inner_support(support)).values())


def fixed_support(name: str, support: constraints.Constraint, layout: PlateLayout) -> constraints.Constraint:
    """Return the ``support`` of one observation, without wrappers, with its tensor bounds in observation layout.

    The bounds of a distribution such as ``Uniform`` are expanded over every plate, and over the components of a mixture. They
    describe the latent of one observation only if they are equal for all; otherwise, and for a trained bound, `ModelError`
    is raised.
    """

    def bound_of_one(attribute: str, value: Tensor) -> Tensor:
        _check_not_trained(name, attribute, value)
        if value.dim() == 0:
            return value
        rows = layout.to_observations(value.detach())
        if not _is_constant(rows, 0):
            raise ModelError(
                f"the support of latent site {name!r} differs between observations ({attribute} depends on the data), so "
                f"no single posterior family covers it: sample a site with a fixed support, and shift and scale it in "
                f"the model."
            )
        return rows[0]

    return _map_bounds(common_support(name, support), bound_of_one)


def fixed_global_support(name: str, support: constraints.Constraint) -> constraints.Constraint:
    """Return the ``support`` of a site outside the data plate, without wrappers; raise `ModelError` for a trained bound."""

    def bound(attribute: str, value: Tensor) -> Tensor:
        _check_not_trained(name, attribute, value)
        return value.detach()

    return _map_bounds(common_support(name, support), bound)


def same_bounds(one: constraints.Constraint, other: constraints.Constraint) -> bool:
    """Whether two supports without wrappers have the same type and equal bounds.

    Example:
        >>> same_bounds(constraints.interval(0.0, 1.0), constraints.interval(0.0, torch.tensor(1.0)))
        True
        >>> same_bounds(constraints.greater_than(0.0), constraints.greater_than(1.0))
        False
    """
    bounds = [(getattr(one, name, None), getattr(other, name, None)) for name in _BOUNDS]
    return type(one) is type(other) and all(_equal(*pair) for pair in bounds)


def common_support(name: str, support: constraints.Constraint) -> constraints.Constraint:
    """Return the support of a latent site without wrappers; of a mixture, the one that its components share.

    Raises:
        ModelError: the components have different supports.
    """
    if isinstance(support, constraints.independent):
        return common_support(name, support.base_constraint)
    if isinstance(support, MaskedConstraint):
        first, second = (common_support(name, part) for part in (support.constraint0, support.constraint1))
        if has_bijection(first) and has_bijection(second) and biject_to(first) != biject_to(second):
            raise _different_components(name, f"{first} and {second}")
        return first if has_bijection(second) else second
    if not isinstance(support, constraints.MixtureSameFamilyConstraint):
        return support
    component_dim = -1 - support.event_dim

    def bound_of_all(attribute: str, value: Tensor) -> Tensor:
        if value.dim() < -component_dim:
            return value
        if not _is_constant(value, component_dim):
            raise _different_components(name, attribute)
        return value.select(component_dim, 0)

    return _map_bounds(common_support(name, support.base_constraint), bound_of_all)


def _map_bounds(support: constraints.Constraint, change: Callable[[str, Tensor], Tensor]) -> constraints.Constraint:
    """Return ``support`` with ``change`` applied to its tensor bounds, each with its name."""
    bounds = {name: getattr(support, name) for name in _BOUNDS if hasattr(support, name)}
    if not tensor_bounds(support):
        return support
    return type(support)(*(change(n, v) if isinstance(v, Tensor) else v for n, v in bounds.items()))


def _equal(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return torch.equal(*torch.broadcast_tensors(torch.as_tensor(one), torch.as_tensor(other)))


def _check_not_trained(name: str, attribute: str, bound: Tensor) -> None:
    if bound.requires_grad:
        raise ModelError(
            f"the support of latent site {name!r} has a trainable bound ({attribute}), so the posterior would leave it as "
            f"the bound moves: sample a site with a fixed support, and shift and scale it in the model."
        )


def _is_constant(value: Tensor, dim: int) -> bool:
    return torch.equal(value, value.narrow(dim, 0, 1).expand_as(value))


def _different_components(name: str, what: str) -> ModelError:
    return ModelError(
        f"the support of latent site {name!r} differs between the components of its mixture ({what}), so no bijection from "
        f"unconstrained numbers covers it: give all components the same support."
    )
