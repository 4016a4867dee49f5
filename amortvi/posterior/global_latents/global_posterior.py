r"""The posterior :math:`q(\theta)` of the global latents: an automatic guide of Pyro, trained together with the network.

The whole posterior is :math:`q(\theta) \prod_i q(z_i \mid x_i)`. In training, each step draws one :math:`\theta` for all
observations of the minibatch, so the bound of the evidence of ``N`` observations is

.. math::

    \log p(x_1, \dots, x_N) \ge E_{q(\theta)}\Bigl[\sum_i \mathcal{L}_i(\theta)\Bigr] - \mathrm{KL}(q(\theta) \,\|\, p(\theta)),

where :math:`\mathcal{L}_i(\theta)` is the objective of observation ``i``, any lower bound of :math:`\log p(x_i \mid \theta)`.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self, TypeAlias

import pyro
import torch
from pyro import poutine
from pyro.infer.autoguide import (
    AutoDiagonalNormal,
    AutoGuide,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor, nn
from torch.func import functional_call

from amortvi._util.random import random_state
from amortvi.errors import OptionError
from amortvi.model import Site
from amortvi.posterior.global_latents.point_mass import PointMasses
from amortvi.posterior.global_latents.scope import private_pyro_scope

__all__ = ["GlobalDraw", "GlobalGuideChoice", "GlobalPosterior", "check_guide", "guide_label"]

GlobalGuideChoice: TypeAlias = Callable[[Callable[..., Any]], AutoGuide]
"""A class of `pyro.infer.autoguide`, or a function that returns such a guide for a model."""

_GAUSSIAN = (AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal)
"""Guides that evaluate their density at the value of a draw; others may compute it from the noise of the draw."""
_DRAWS = 1000
"""The number of draws from which the medians of a guide that does not know them are estimated."""


@dataclass(frozen=True)
class GlobalDraw:
    """One value of the global latents.

    Args:
        values: the value of each site, ``(*shape)``; empty if the model has no global latents.
        log_density: ``log q(theta)``, a scalar.
    """

    values: Mapping[str, Tensor] = field(default_factory=dict)
    log_density: Tensor | float = 0.0


def check_guide(choice: object) -> GlobalGuideChoice | None:
    """Return ``choice`` if it can make a guide, or raise `OptionError`."""
    if choice is None or (callable(choice) and not isinstance(choice, AutoGuide)):
        return choice
    raise OptionError(
        f"global_guide must be a class such as pyro.infer.autoguide.AutoNormal, or a function that returns such a guide for a "
        f"model; got {type(choice).__name__}."
    )


def guide_label(guide: GlobalPosterior | None) -> str | None:
    """Return the class of the guide, by which a saved run is recognized; ``None`` without global latents."""
    return None if guide is None else type(guide.guide).__name__


class GlobalPosterior(nn.Module):
    """The posterior ``q(theta)`` of the latent sites outside the data plate.

    Its parameters are those of an `nn.Module`, and never enter Pyro's global param store. The guide is made for a program that
    has the global sites alone, so it holds no reference to the user's model.

    Args:
        sites: the global sites of one run of the model, without gradients.
        choice: makes the guide; by default `pyro.infer.autoguide.AutoNormal`, the mean field.

    Raises:
        OptionError: ``choice`` does not return an `AutoGuide` that samples these sites.

    Example:
        >>> import pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("rate", dist.Gamma(2.0, 1.0))
        >>> trace = poutine.trace(model).get_trace()
        >>> posterior = GlobalPosterior([Site(trace.nodes["rate"])])
        >>> posterior.sample(5)["rate"].shape, posterior.medians()["rate"]
        (torch.Size([5]), tensor(1.))
    """

    def __init__(self, sites: Sequence[Site], choice: GlobalGuideChoice | None = None) -> None:
        super().__init__()
        made = (choice or AutoNormal)(_GlobalSites(sites))
        if not isinstance(made, AutoGuide):
            raise OptionError(
                f"global_guide must return a guide of pyro.infer.autoguide when it is called with a model; got "
                f"{type(made).__name__}."
            )
        self.guide = made
        self.shapes = {site.name: site.value.shape for site in sites}
        self._plate_dim = min((frame.dim for site in sites for frame in site.plates), default=0) - 1
        with private_pyro_scope():
            drawn = self.guide()  # the first call creates the parameters
        missing = sorted(set(self.shapes) - set(drawn))
        if missing:
            raise OptionError(f"the guide that global_guide returned does not sample the global latents {missing}.")

    @property
    def _device(self) -> torch.device:
        return next(iter(self.parameters())).device

    def forward(self) -> dict[str, Tensor]:
        """Run as a Pyro guide: sample every global site, visible to surrounding handlers."""
        # Its parameters already belong to the network.
        with pyro.get_param_store().scope(), poutine.block(hide_types=["param"]), PointMasses():
            drawn: dict[str, Tensor] = self.guide()
        return drawn

    def draw(self) -> GlobalDraw:
        """Draw one value of the global latents, differentiable.

        The density of a Gaussian guide is differentiated through the draw alone, not through the parameters. The omitted score is
        zero on average, and a large part of the noise of the gradient (Roeder, Wu and Duvenaud, 2017).
        """
        with private_pyro_scope():
            drawn = poutine.trace(self.guide).get_trace()
        values: dict[str, Any] = {name: drawn.nodes[name]["value"] for name in self.shapes}
        if type(self.guide) not in _GAUSSIAN:
            return GlobalDraw(values, drawn.log_prob_sum())
        with private_pyro_scope():  # another one, because Pyro's store holds the parameters of the draw
            constants = {name: value.detach() for name, value in (*self.named_parameters(), *self.named_buffers())}
            scored = poutine.trace(
                poutine.replay(partial(functional_call, self, constants, ()), trace=drawn)
            ).get_trace()
        return GlobalDraw(values, scored.log_prob_sum())

    def sample(self, draws: int) -> dict[str, Tensor]:
        """Return draws of the global latents at once, without gradients, ``(draws, *shape)`` each."""
        # The plate is to the left of those of all sites.
        with torch.no_grad(), _unchecked(), pyro.plate("_draws", draws, dim=self._plate_dim):
            drawn = self.guide()
        return {name: drawn[name].reshape(draws, *shape) for name, shape in self.shapes.items()}

    def medians(self) -> dict[str, Tensor]:
        """Return the median of each element of each site, ``(*shape)``, without gradients.

        They are estimated from draws, always with the same noise, if the guide does not know them.
        """
        with torch.no_grad(), _unchecked(), contextlib.suppress(NotImplementedError):
            known = self.guide.median()
            return {name: known[name].detach() for name in self.shapes}
        with random_state(0, self._device):
            return {name: value.quantile(0.5, dim=0) for name, value in self.sample(_DRAWS).items()}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        # The transforms of a flow keep their last result, which cannot be copied together with its gradient.
        with random_state(0, self._device):
            self.sample(1)
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        # Copying a guide removes the links between its parts, such as those of an AutoGuideList; this restores them.
        self.guide.__setstate__({})
        return copied


@contextlib.contextmanager
def _unchecked() -> Iterator[None]:
    """Hide Pyro statements, and let parameters that are not finite give values that are not, for the caller to report."""
    with private_pyro_scope(), pyro.validation_enabled(False):
        yield


class _GlobalSites:
    """A program that samples the global sites of one run of a model, and nothing else."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = [(site.name, site.distribution, site.plates) for site in sites]

    def __call__(self) -> None:
        plates = {frame.name: frame for _, _, frames in self._sites for frame in frames}
        made = {name: pyro.plate(name, frame.size, dim=frame.dim) for name, frame in plates.items()}
        for name, distribution, frames in self._sites:
            with contextlib.ExitStack() as around:
                for frame in frames:
                    around.enter_context(made[frame.name])
                pyro.sample(name, distribution)
