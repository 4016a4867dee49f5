"""A family whose posteriors are made from those of another family, with the same parameters."""

from __future__ import annotations

from torch import Tensor

from amortvi.families.base import ParametricFamily, require_parametric
from amortvi.families.choice import FamilyChoice, resolve_family

__all__ = ["WrappedFamily"]


class WrappedFamily(ParametricFamily):
    """A family with the parameters of another one; a subclass implements `distribution`.

    Args:
        base: the other family.
        head: whether there is a linear head; see `ParametricFamily`.

    Raises:
        FamilyError: ``base`` is unknown or has no parameters for each observation.
    """

    def __init__(self, base: FamilyChoice, *, head: bool = True) -> None:
        super().__init__(head=head)
        self.inner = require_parametric(resolve_family(base), type(self).__name__)
        self.base = base if isinstance(base, str) else self.inner

    def build(self) -> None:
        self.inner.setup(self.dim, self.context_features, self.sites).remove_head()
        super().build()

    @property
    def num_parameters(self) -> int:
        return self.inner.num_parameters

    def initial_parameters(self) -> Tensor:
        return self.inner.initial_parameters()

    def learning_rates(self) -> Tensor:
        return self.inner.learning_rates()

    def locked_parameters(self) -> Tensor:
        return self.inner.locked_parameters()

    def parameters_near(self, loc: Tensor, scale: Tensor) -> Tensor:
        return self.inner.parameters_near(loc, scale)
