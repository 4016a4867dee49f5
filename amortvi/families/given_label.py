r"""A family for each value of a label: the posterior of an observation of which the label may be unknown.

.. math::

    q(z \mid x) = \sum_y q(y \mid x)\, q(z \mid x, y).

The context of an observation holds the features that the encoder has found and the logarithms of :math:`q(y \mid x)`. Features
and label together give the context of :math:`q(z \mid x, y)`, so the encoder runs once for all labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amortvi._util.checks import positive_int
from amortvi.errors import FamilyError
from amortvi.families.base import Family, ParametricFamily, require_parametric
from amortvi.families.draws import require_noise
from amortvi.families.mixture import MixtureDistribution, spread_out

__all__ = ["GivenLabel"]


class GivenLabel(ParametricFamily):
    """Mixture over the values of a label, each component from the same family.

    Args:
        base: the family of the components.
        labels: ``M``, the number of values.

    Raises:
        OptionError: ``labels`` is not an integer of at least 2.
        FamilyError: ``base`` has no parameters for each observation; or, at setup, it is itself a mixture.

    Example:
        >>> from amortvi.families import make_family
        >>> family = GivenLabel(make_family("full", dim=2, context_features=5), labels=3).setup(dim=2, context_features=5 + 3)
        >>> family(torch.zeros(4, 8)).components.mean.shape
        torch.Size([4, 3, 2])
    """

    strength: Tensor
    """How much of the gradient of the bound the classifier follows; compiled steps read it in each step."""

    def __init__(self, base: Family, labels: int) -> None:
        super().__init__()
        self.register_buffer("strength", torch.ones(()), persistent=False)
        self.component = require_parametric(base, "labels=")
        self.labels = positive_int("labels", labels, at_least=2)

    @property
    def base(self) -> ParametricFamily:
        """The family of the components."""
        return self.component

    def build(self) -> None:
        features = self.context_features - self.labels
        # The head stays in `component`, which alone gives q(z | x, y); see `given`.
        self.component.setup(self.dim, 2 * features, self.sites)
        if not require_noise(self.component(torch.zeros(1, 2 * features)), "labels=").has_rsample:
            raise FamilyError(
                f"{self.base!r} cannot be the family of q(z | x, y), because it is a mixture: use a Gaussian family or a flow."
            )
        self.to_parameters = _EachLabel(self.component, features, self.labels)

    @property
    def num_parameters(self) -> int:
        return self.labels * (self.component.num_parameters + 1)

    def given(self, features: Tensor) -> Tensor:
        """Return the contexts of ``q(z | x, y)`` for ``component``, ``(B, M, C')``, from the features, ``(B, C - M)``."""
        assert isinstance(self.to_parameters, _EachLabel)
        return self.to_parameters.contexts(features)

    def distribution(self, parameters: Tensor) -> MixtureDistribution:
        """Return the mixtures with ``parameters`` of shape ``(*B, P)``."""
        *each, log_probs = parameters.split([*(self.component.num_parameters,) * self.labels, self.labels], dim=-1)
        components = require_noise(self.component.distribution(torch.stack(each, dim=-2)), "labels=")
        return MixtureDistribution(torch.log_softmax(log_probs, dim=-1), components)

    def parameters_near(self, loc: Tensor, scale: Tensor) -> Tensor:
        shifts = spread_out(self.labels, self.dim).to(loc)
        each = [self.component.parameters_near(loc + shift * scale, scale) for shift in shifts]
        return F.pad(torch.cat(each, dim=-1), (0, self.labels))

    def unlock(self, fraction: float) -> None:
        self.component.unlock(fraction)
        self.strength.fill_(fraction)

    def settle(self) -> None:
        self.component.settle()
        self.strength.fill_(1.0)


class _EachLabel(nn.Module):
    """Maps ``(*B, C + M)``, features and log-probabilities, to the parameters of all components and of their weights."""

    def __init__(self, component: ParametricFamily, features: int, labels: int) -> None:
        super().__init__()
        self._component = (component,)  # in a tuple, because the component is already a part of the family
        self.sizes = [features, labels]
        self.shift = nn.Parameter(torch.zeros(labels, features))
        self.hidden = nn.Linear(features + labels, features)

    def contexts(self, features: Tensor) -> Tensor:
        """Return a context for each label, ``(*B, M, C')``: the features shifted by label, and a hidden layer."""
        of_features, of_labels = self.hidden.weight.split(self.sizes, dim=1)
        # The sum of both parts, instead of a layer on their concatenation, reads the features once for all labels.
        hidden = F.relu(F.linear(features, of_features, self.hidden.bias).unsqueeze(-2) + of_labels.mT)
        return torch.cat([features.unsqueeze(-2) + self.shift, hidden], dim=-1)

    def forward(self, context: Tensor) -> Tensor:
        """Return the parameters, ``(*B, P)``."""
        features, log_probs = context.split(self.sizes, dim=-1)
        (component,) = self._component
        each: Tensor = component.to_parameters(self.contexts(features))
        return torch.cat([each.flatten(-2), log_probs], dim=-1)
