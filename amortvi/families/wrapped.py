"""A family whose posteriors are made from those of another family."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from amortvi._util.checks import nonnegative_int
from amortvi.errors import FamilyError
from amortvi.families.base import ParametricFamily, require_parametric
from amortvi.families.choice import FamilyChoice, resolve_family
from amortvi.families.gate import GATE_RATE
from amortvi.families.gaussians import Gaussian

__all__ = ["WrappedFamily", "WrappedGaussian"]


class WrappedFamily(ParametricFamily):
    """A family with the parameters of another one; a subclass implements `distribution`.

    Args:
        base: the other family.
        features: the number of further parameters, such as features of an observation that networks read. They follow those of
            ``base``, start at zero and are locked.
        head: whether there is a linear head; see `ParametricFamily`.

    Raises:
        OptionError: ``features`` is not a nonnegative integer.
        FamilyError: ``base`` is unknown or has no parameters for each observation.
    """

    def __init__(self, base: FamilyChoice, *, features: int = 0, head: bool = True) -> None:
        super().__init__(head=head)
        self.inner = require_parametric(resolve_family(base), type(self).__name__)
        self.features = nonnegative_int("features", features)
        self._name = base if isinstance(base, str) else None

    @property
    def base(self) -> FamilyChoice:
        """The other family, or its name if it was chosen by name."""
        return self._name or self.inner

    def build(self) -> None:
        self.inner.setup(self.dim, self.context_features, self.sites).remove_head()
        super().build()

    @property
    def num_parameters(self) -> int:
        return self.inner.num_parameters + self.features

    def initial_parameters(self) -> Tensor:
        return F.pad(self.inner.initial_parameters(), (0, self.features))

    def learning_rates(self) -> Tensor:
        return F.pad(self.inner.learning_rates(), (0, self.features), value=GATE_RATE)

    def locked_parameters(self) -> Tensor:
        return F.pad(self.inner.locked_parameters(), (0, self.features), value=True)

    def parameters_near(self, loc: Tensor, scale: Tensor) -> Tensor:
        return F.pad(self.inner.parameters_near(loc, scale), (0, self.features))


class WrappedGaussian(WrappedFamily):
    """A family whose posteriors are made from those of a Gaussian family.

    Args:
        base: the Gaussian family.
        features: see `WrappedFamily`.
        head: whether there is a linear head; see `ParametricFamily`.

    Raises:
        FamilyError: ``base`` is unknown; or, at setup, it is not Gaussian.
    """

    def build(self) -> None:
        super().build()
        self.gaussian(torch.zeros(1, self.inner.num_parameters))  # refuses a base that is not Gaussian

    def gaussian(self, parameters: Tensor) -> Gaussian:
        """Return the posteriors of ``base`` with its ``parameters``, ``(*B, P)`` without the features."""
        q = self.inner.distribution(parameters)
        if not isinstance(q, Gaussian):
            raise FamilyError(f"base={self.base!r} must be a Gaussian family, such as 'full' or 'diagonal'.")
        return q
