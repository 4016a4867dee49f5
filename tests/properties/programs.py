"""Hypothesis strategies for Pyro models: any supports, event dimensions and nested plates, with and without global latents."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from hypothesis import strategies as st
from pyro import distributions as dist
from pyro.distributions.transforms import OrderedTransform
from torch import Tensor

import amortvi as avi
from tests.families.cases import FAMILIES

ROWS, FEATURES = 5, 2
ANY_SITES = {**FAMILIES, "banded": avi.families.Banded(bandwidth=1)}
"""Families that need no sites of a particular shape."""


def ordered(size: int) -> Any:
    return dist.TransformedDistribution(dist.Normal(torch.zeros(size), 1.0).to_event(1), [OrderedTransform()])


SUPPORTS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "real": (lambda: dist.Normal(torch.tensor(0.0), 1.0), ()),
    "positive": (lambda: dist.Gamma(torch.tensor(2.0), 2.0), ()),
    "unit interval": (lambda: dist.Beta(torch.tensor(2.0), 3.0), ()),
    "interval": (lambda: dist.Uniform(torch.tensor(-1.0), torch.tensor(2.5)), ()),
    "greater than": (lambda: dist.Pareto(torch.tensor(1.5), 4.0), ()),
    "vector": (lambda: dist.MultivariateNormal(torch.zeros(2), torch.tensor([[1.0, 0.5], [0.5, 1.0]])), (2,)),
    "simplex": (lambda: dist.Dirichlet(torch.tensor([2.0, 1.5, 3.0])), (3,)),
    "ordered": (lambda: ordered(3), (3,)),
    "correlation": (lambda: dist.LKJCholesky(3, 1.5), (3, 3)),
}
"""A distribution with each support, and the shape of one value."""


@dataclass(frozen=True)
class Plate:
    name: str
    dim: int
    size: int


@dataclass(frozen=True)
class SiteSpec:
    """A latent site with ``event_shape`` independent values of its support, inside some of the nested plates."""

    name: str
    support: str
    event_shape: tuple[int, ...]
    plates: frozenset[str]

    def distribution(self) -> Any:
        made = SUPPORTS[self.support][0]()
        return made.expand(self.event_shape).to_event(len(self.event_shape)) if self.event_shape else made

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one value."""
        return self.event_shape + SUPPORTS[self.support][1]


@dataclass(frozen=True)
class Program:
    """A Pyro model in which each element of each latent shifts the mean of the observation.

    Args:
        plates: the data plate, named ``"data"``, and nested ones, in the order in which they are entered.
        local: the latents in the data plate.
        shared: the latents outside.
    """

    plates: tuple[Plate, ...]
    local: tuple[SiteSpec, ...]
    shared: tuple[SiteSpec, ...]

    @property
    def dim(self) -> int:
        """The dimension of the data plate."""
        return next(plate.dim for plate in self.plates if plate.name == "data")

    def nested(self, site: SiteSpec) -> dict[str, int]:
        """Return the sizes of the plates around a site, other than the data plate, outermost first."""
        return {plate.name: plate.size for plate in self.plates if plate.name in site.plates}

    def __call__(self, x: Tensor) -> None:
        total = sum(
            (self._effect(site, pyro.sample(site.name, site.distribution())) for site in self.shared), x.new_zeros(())
        )
        open_plates = {
            plate.name: pyro.plate(plate.name, x.shape[0] if plate.name == "data" else plate.size, dim=plate.dim)
            for plate in self.plates
        }
        for site in self.local:
            with contextlib.ExitStack() as stack:
                for name, plate in open_plates.items():
                    if name == "data" or name in site.plates:
                        stack.enter_context(plate)
                total = total + self._effect(site, pyro.sample(site.name, site.distribution()))
        with open_plates["data"]:
            right = (1,) * (-self.dim - 1)
            loc = total.unsqueeze(-1) * torch.linspace(0.5, 1.0, FEATURES)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x.reshape(x.shape[0], *right, FEATURES))

    def _effect(self, site: SiteSpec, value: Tensor) -> Tensor:
        """Sum over the event and the nested plates, whose dimensions become singletons."""
        effect = value.flatten(value.dim() - len(site.shape)).sum(-1) if site.shape else value
        for plate in self.plates:
            if plate.name in site.plates:
                effect = effect.sum(plate.dim, keepdim=True)
        return effect


@st.composite
def sites(draw: Any, name: str, plates: tuple[str, ...]) -> SiteSpec:
    support = draw(st.sampled_from(sorted(SUPPORTS)))
    room = 2 - len(SUPPORTS[support][1])
    event_shape = tuple(draw(st.lists(st.integers(1, 2), max_size=room)))
    return SiteSpec(
        name, support, event_shape, frozenset(draw(st.sets(st.sampled_from(plates)))) if plates else frozenset()
    )


@st.composite
def programs(draw: Any, *, with_globals: bool = True) -> Program:
    dims = draw(st.lists(st.integers(-3, -1), unique=True, min_size=1, max_size=3))
    plates = [Plate("data", dims[0], ROWS), *(Plate(f"nested{-dim}", dim, draw(st.integers(1, 3))) for dim in dims[1:])]
    names = tuple(plate.name for plate in plates[1:])
    local = tuple(draw(sites(f"z{i}", names)) for i in range(draw(st.integers(1, 3))))
    shared = tuple(draw(sites(f"theta{i}", ())) for i in range(draw(st.integers(0, 2)) if with_globals else 0))
    return Program(tuple(draw(st.permutations(plates))), local, shared)


def data(dtype: torch.dtype) -> Tensor:
    return torch.randn(ROWS, FEATURES, generator=torch.Generator().manual_seed(0)).to(dtype)


@dataclass(frozen=True)
class Fitted:
    """A program with an estimator whose posterior differs between observations and correlates coordinates."""

    program: Program
    vi: avi.AmortizedVI
    dtype: torch.dtype

    @property
    def x(self) -> Tensor:
        return data(self.dtype)


@st.composite
def estimators(draw: Any) -> Fitted:
    program, dtype = draw(programs()), draw(st.sampled_from([torch.float32, torch.float64]))
    family = ANY_SITES[draw(st.sampled_from(sorted(ANY_SITES)))]
    with torch.random.fork_rng():
        torch.manual_seed(draw(st.integers(0, 99)))
        vi = (
            avi.AmortizedVI(program, avi.encoders.MLP(FEATURES, [4]), family).to(dtype=dtype).setup(data(dtype), seed=0)
        )
        with torch.no_grad():
            for parameter in vi.guide.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
    return Fitted(program, vi, dtype)
