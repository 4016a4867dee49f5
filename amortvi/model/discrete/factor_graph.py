r"""The sites of a run with enumerated latents, in groups whose discrete latents are summed out together.

The posterior probabilities of a discrete latent are the gradient of the logarithm of the sum with respect to the logarithms of
its own probabilities (Darwiche, 2003):

.. math::

    p(y = v \mid x, z) = \frac{\partial \log \sum_y p(x, z, y)}{\partial \log p(y = v)}.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

import torch
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.poutine import Trace
from torch import Tensor

from amortvi.errors import ModelError
from amortvi.model.discrete.factor import Factor, symbols_of
from amortvi.model.discrete.log_ring import LogSumExpRing
from amortvi.model.discrete.requirements import check_inside, check_unscaled, fails_to_broadcast
from amortvi.model.discrete.sites import DiscreteSite
from amortvi.model.sites import Site

__all__ = ["FactorGroup", "factor_groups"]


class FactorGroup:
    """Discrete latents that are summed out together, and the sites that depend on them.

    Args:
        factors: the log-probabilities of the sites, in the order of the model.
        plate: the symbol of the data plate.
        sizes: the size of each plate, and the number of values of each enumerated latent, by symbol.
    """

    def __init__(self, factors: Sequence[Factor], plate: str, sizes: Mapping[str, int]) -> None:
        self._factors = factors
        self._plate = plate
        self._sizes = sizes

    @property
    def discrete(self) -> list[str]:
        """The names of the discrete latents."""
        return [factor.name for factor in self._factors if factor.discrete is not None]

    @property
    def continuous(self) -> list[str]:
        """The names of the continuous latents."""
        return [factor.name for factor in self._factors if factor.site.is_latent and factor.discrete is None]

    @property
    def observed(self) -> list[str]:
        """The names of the sites that are not latent."""
        return [factor.name for factor in self._factors if not factor.site.is_latent]

    def log_joint(self) -> Tensor:
        """Return the log density of all other sites, with the discrete latents summed out, ``(B,)``."""
        return self._contract(self._factors)

    def log_prior(self) -> Tensor:
        """Return the log prior density of the continuous latents, with the discrete ones summed out, ``(B,)``."""
        return self._contract([factor for factor in self._factors if factor.site.is_latent])

    def at(self, positions: Mapping[str, Tensor]) -> FactorGroup:
        """Return the group with some discrete latents fixed at positions among their values, ``(B, *nested)``."""
        fixed = [
            factor.fixed(positions[factor.name]) if factor.name in positions else factor for factor in self._factors
        ]
        return FactorGroup(fixed, self._plate, self._sizes)

    def probs(self) -> dict[str, Tensor]:
        """Return the probabilities of the values of each discrete latent given all other sites, ``(B, *nested, V)``."""
        with torch.enable_grad():
            factors = [factor.detached() for factor in self._factors]
            queried = [factor for factor in factors if factor.discrete is not None]
            total = self._contract(factors).sum()
            tables = torch.autograd.grad(total, [factor.log_prob for factor in queried])
        return {factor.name: factor.marginal(table, self._sizes) for factor, table in zip(queried, tables, strict=True)}

    def draw(self) -> dict[str, Tensor]:
        """Draw the discrete latents from their joint distribution given all other sites: values in model layout."""
        positions: dict[str, Tensor] = {}
        for name in self.discrete:  # each given those before it
            probs = self.at(positions).probs()[name]
            positions[name] = torch.multinomial(probs.flatten(0, -2), 1).reshape(probs.shape[:-1])
        sites = {factor.name: factor.discrete for factor in self._factors if factor.discrete is not None}
        return {name: sites[name].at(position) for name, position in positions.items()}

    def _contract(self, factors: Iterable[Factor]) -> Tensor:
        terms: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
        variables: set[str] = set()
        for factor in factors:
            terms.setdefault(factor.plates, []).append(factor.log_prob)
            variables |= factor.variables
        ring, target = LogSumExpRing(self._sizes), frozenset({self._plate})
        try:
            result: Tensor = contract_to_tensor(terms, variables, target, ring=ring)
        except NotImplementedError as error:
            raise ModelError(
                f"the discrete latents {self.discrete} cannot be summed out exactly, because they are coupled across plates of "
                f"which none is inside the other: write one of these plates as a Python loop, 'for i in pyro.plate(...):'."
            ) from error
        return result


def factor_groups(
    sites: Sequence[Site], discrete: Sequence[DiscreteSite], plate: str, observations: int
) -> list[FactorGroup]:
    """Find the sites of a run with enumerated latents that depend on these latents.

    Args:
        sites: the sites of the run.
        discrete: the enumerated latents.
        plate: the name of the data plate.
        observations: ``B``, the number of observations in the run.

    Returns:
        Groups of sites without common latents. Sites that depend on no discrete latent are in none of them.

    Raises:
        ModelError: a site does not broadcast over the enumerated values, is outside the data plate, or is scaled.
    """
    if not discrete:
        return []
    enumerated, trace = {site.name: site for site in discrete}, Trace()
    for site in sites:
        trace.add_node(site.name, **site.message)
    trace.symbolize_dims()
    symbol, sizes, factors = trace.plate_to_symbol[plate], dict[str, int](), list[Factor]()
    for site in sites:
        if site.is_deterministic:  # has no log-probability, and without event_dim, no known layout
            continue
        factor = _factor(site, enumerated.get(site.name), plate, trace.plate_to_symbol)
        if factor.variables or factor.discrete is not None:
            check_inside(site, plate)
            check_unscaled(site, plate)
            factors.append(factor)
            sizes |= {trace.plate_to_symbol[frame.name]: frame.size for frame in site.plates}
            sizes |= dict(zip(symbols_of(factor.log_prob), factor.log_prob.shape, strict=True))
            if factor.discrete is not None:
                sizes[factor.own[-1]] = len(factor.discrete.values)
    sizes[symbol] = observations
    return [FactorGroup(group, symbol, sizes) for group in _connected(factors)]


def _factor(site: Site, discrete: DiscreteSite | None, plate: str, plates: Mapping[str, str]) -> Factor:
    # The probabilities of a discrete latent sum to one whether it is masked or not, and a masked one, such as the unobserved
    # part of a site with obs_mask=, would count once for each of its values.
    log_prob = site.log_prob(plate if discrete is None else None)
    infer, frames = site.message["infer"], {frame.dim: frame.size for frame in site.plates}
    full = [frames.get(dim, 1) for dim in range(min(frames, default=0), 0)]
    log_prob = log_prob.expand(torch.broadcast_shapes(log_prob.shape, full))
    try:
        tensor = packed.pack(log_prob[...], infer["_dim_to_symbol"])
    except ValueError as error:
        check_inside(site, plate)
        raise fails_to_broadcast(error) from error
    own: tuple[str, ...] = ()
    if discrete is not None:
        inside = [plates[plate], *(plates[nested.name] for nested in discrete.layout.nested)]
        own = (*inside, infer["_dim_to_symbol"][infer["_enumerate_dim"]])
    return Factor(site, tensor, frozenset(plates[frame.name] for frame in site.plates), discrete, own)


def _connected(factors: Sequence[Factor]) -> list[list[Factor]]:
    """Split factors into groups that have no variable in common; each keeps the order of the factors."""
    groups: list[tuple[set[str], list[int]]] = []
    for position, factor in enumerate(factors):
        variables, members = set(factor.variables), [position]
        if factor.discrete is not None:
            variables.add(factor.own[-1])
        for group in [group for group in groups if group[0] & variables]:
            groups.remove(group)
            variables, members = variables | group[0], members + group[1]
        groups.append((variables, members))
    return [[factors[position] for position in sorted(members)] for _, members in groups]
