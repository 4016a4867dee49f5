r"""A hierarchy of latents: each site given the observation and the sites above it.

.. math::

    q(z \mid x) = \prod_s q_s(z_s \mid z_1, \dots, z_{s-1}, x),

with the sites in the order of the model, as in the top-down inference of a ladder variational autoencoder (Sønderby et al.,
2016). The parameters of :math:`q_s` are the sum of those from the head and of the output of a network that reads the sites above
and a few features of the observation. The networks start at zero, so the family starts as `Structured`, and they are locked and
unlocked like off-diagonal parameters. A scale that depends on the sites above represents posteriors such as funnels, which no
Gaussian does.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.types import _size

from amortvi._util.checks import layer_widths, positive_int
from amortvi.errors import FamilyError
from amortvi.families.base import ParametricFamily
from amortvi.families.by_site.structured import Structured
from amortvi.families.choice import FamilyChoice
from amortvi.families.draws import Draws, TransformedNoise, require_noise
from amortvi.families.gate import Gate
from amortvi.families.wrapped import WrappedFamily

__all__ = ["TopDown", "TopDownDistribution"]


class TopDown(WrappedFamily):
    """A family for each latent site, given the sites before it in the model.

    Args:
        families: families by the name of the latent site. They cannot be mixtures.
        default: the family of the sites that ``families`` does not name.
        hidden: the widths of the hidden layers of each site's network.
        features: the number of features of an observation that the networks read.
        head: whether there is a linear head; without one, the context itself holds the parameters of all sites, as for
            `Structured`, and the features.

    Raises:
        OptionError: a width or ``features`` is not a positive integer.
        FamilyError: a family is unknown or has no parameters for each observation; or, at setup, it is a mixture, or the model
            has no latent site of a given name.

    Example:
        >>> sites = {"group": torch.Size([2]), "member": torch.Size([3])}
        >>> family = TopDown().setup(dim=5, context_features=4, sites=sites)
        >>> family(torch.zeros(6, 4)).rsample((10,)).shape
        torch.Size([10, 6, 5])
    """

    inner: Structured

    def __init__(
        self,
        families: Mapping[str, FamilyChoice] | None = None,
        *,
        default: FamilyChoice = "full",
        hidden: Sequence[int] = (64,),
        features: int = 16,
        head: bool = True,
    ) -> None:
        sites = _Parts(families, default=default)
        super().__init__(sites, features=positive_int("features", features), head=head)
        self.families, self.default = sites.families, sites.default
        self.hidden = layer_widths("hidden", hidden)

    def build(self) -> None:
        super().build()
        above, gates = 0, []
        for part in self.inner.each():
            if not require_noise(part.distribution(torch.zeros(1, part.num_parameters)), "TopDown").has_rsample:
                raise FamilyError(
                    f"{part!r} cannot be a part of TopDown, because its draws are stratified: use Structured."
                )
            if above:
                gates.append(Gate(self._network(above + self.features, part.num_parameters)))
            above += part.dim
        self.gates = nn.ModuleList(gates)

    def _network(self, inputs: int, outputs: int) -> nn.Sequential:
        widths = [inputs, *self.hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))

    def distribution(self, parameters: Tensor) -> TopDownDistribution:
        """Return the distributions with ``parameters`` of shape ``(*B, P)``."""
        own, features = parameters.split([self.inner.num_parameters, self.features], dim=-1)
        return TopDownDistribution(own[..., : self.dim], self.inner.each(), self.gates, self.inner.split(own), features)


class _Parts(Structured):
    """The families of the sites, for which error messages name `TopDown`."""

    role = "a part of TopDown"


class TopDownDistribution(TransformedNoise):
    """The product of the conditional distributions of consecutive parts of a vector.

    Args:
        loc: determines batch shape, event shape, type and device, ``(*B, D)``.
        families: the families of the parts.
        gates: for each part but the first, the network from the parts above and the features to a change of its parameters.
        parameters: the parameters of each part, ``(*B, P_s)``.
        features: what the networks read of an observation, ``(*B, F)``.
    """

    def __init__(
        self,
        loc: Tensor,
        families: Sequence[ParametricFamily],
        gates: nn.ModuleList,
        parameters: Sequence[Tensor],
        features: Tensor,
    ) -> None:
        super().__init__(loc)
        self.families = families
        self.gates = gates
        self.parameters = parameters
        self.features = features

    def expand(self, batch_shape: _size, _instance: None = None) -> TopDownDistribution:
        """Return the same distributions with batch shape ``batch_shape``."""
        loc, features, *parameters = (
            value.expand(*batch_shape, value.shape[-1]) for value in (self.loc, self.features, *self.parameters)
        )
        return TopDownDistribution(loc, self.families, self.gates, parameters, features)

    @property
    def noise_dim(self) -> int:
        return sum(self._given(number, self.loc).noise_dim for number in range(len(self.families)))

    def from_noise(self, noise: Tensor) -> Draws:
        """Return one draw for each noise: ``(*S, *B, noise_dim)`` gives ``(*S, *B, D)``."""
        above, log_prob = noise[..., :0], noise.new_zeros(())
        for number in range(len(self.families)):
            q = self._given(number, above)
            own, noise = noise.split([q.noise_dim, noise.shape[-1] - q.noise_dim], dim=-1)
            drawn = q.from_noise(own).vector
            log_prob = log_prob + q.log_prob(drawn)
            above = torch.cat([above, drawn], dim=-1)
        self.remember(above, log_prob)
        return Draws(above)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return ``log q(value)``, shape ``value.shape[:-1]``."""
        remembered: Tensor | None = self.recall(value)
        if remembered is not None:
            return remembered
        parts = value.split([family.dim for family in self.families], dim=-1)
        terms = [self._given(number, value).log_prob(part) for number, part in enumerate(parts)]
        return torch.stack(torch.broadcast_tensors(*terms)).sum(0)

    def _given(self, number: int, above: Tensor) -> TransformedNoise:
        """Return the distribution of a part given the parts above, the first coordinates of ``above``, ``(*S, *B, ...)``."""
        parameters = self.parameters[number]
        if number:
            size = sum(family.dim for family in self.families[:number])
            features = self.features.expand(*above.shape[:-1], -1)
            parameters = parameters + self.gates[number - 1](torch.cat([above[..., :size], features], dim=-1))
        return require_noise(self.families[number].distribution(parameters), "TopDown")
