"""A run of the model in which discrete latents take all their values at once, compared with one in which they have one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pyro
import torch
from torch import Tensor

from amortvi.data import Batch
from amortvi.errors import AmortviError, ModelError
from amortvi.model.discrete.enumeration import enumerated
from amortvi.model.discrete.factor_graph import factor_groups
from amortvi.model.discrete.requirements import HOW_TO_BROADCAST, fails_to_broadcast
from amortvi.model.discrete.sites import DiscreteSite
from amortvi.model.program import Program
from amortvi.model.sites import Site, SiteReader
from amortvi.model.supports import common_support, tensor_bounds

__all__ = ["check_enumeration"]

_TOLERANCE = 1e-3
"""Log densities that differ by less, relatively or absolutely, are considered equal up to rounding, in single precision."""


def check_enumeration(
    program: Program,
    example: Batch,
    drawn: Sequence[Site],
    discrete: Mapping[str, DiscreteSite],
    plate: str,
    nesting: int,
) -> frozenset[str]:
    """Check that the model has the same density whether its discrete latents are enumerated or have single values.

    Args:
        program: the model.
        example: the arguments of the call.
        drawn: the sites of a run on ``example`` in which all latents were drawn.
        discrete: the discrete latents by name.
        plate: the name of the data plate.
        nesting: the number of dimensions that the plates of the model take.

    Returns:
        The names of the continuous latents whose prior depends on discrete ones.

    Raises:
        ModelError: the model does not broadcast over the enumerated values, or the support of a continuous latent depends on
            them.
    """
    before = {site.name: site for site in drawn}
    frame = before[next(iter(discrete))].frame(plate)
    assert frame is not None
    values = {site.name: site.value for site in drawn if site.is_latent and site.name not in discrete}
    reader = SiteReader(values=values)
    with pyro.validation_enabled(False), torch.no_grad():
        try:
            with reader, enumerated(discrete.keys(), nesting):
                program(*example.args, **example.kwargs)
            groups = factor_groups(reader.sites, [*discrete.values()], plate, frame.size)
        except AmortviError:
            raise
        except Exception as error:  # the user's program can raise anything
            raise fails_to_broadcast(error) from error
        for group in groups:
            positions = {name: _positions(before[name], discrete[name], plate, frame.size) for name in group.discrete}
            names = [*group.discrete, *group.continuous, *group.observed]
            expected = torch.stack([_log_prob(before[name], plate, name in discrete) for name in names]).sum(0)
            if not torch.allclose(group.at(positions).log_joint(), expected, rtol=_TOLERANCE, atol=_TOLERANCE):
                raise ModelError(
                    f"the log-probability of {', '.join(map(repr, names))} changes when the discrete latents {group.discrete} "
                    f"take all their values at once, so the model mixes their values. {HOW_TO_BROADCAST}"
                )
    for site in reader.sites:
        if site.name in values:
            _check_support(site, nesting)
    return frozenset(name for group in groups for name in group.continuous)


def _positions(site: Site, discrete: DiscreteSite, plate: str, observations: int) -> Tensor:
    rows = site.by_observation(site.value, plate, observations)
    assert rows is not None
    return discrete.positions(rows)


def _log_prob(site: Site, plate: str, is_discrete: bool) -> Tensor:
    """Return the log-probability of a site for each observation, ``(B,)``, without the mask of a discrete latent."""
    log_prob = site.log_prob(None if is_discrete else plate)
    rows = replace(site.layout(plate), event_dim=0).to_observations(log_prob)
    return rows.reshape(rows.shape[0], -1).sum(-1)


def _check_support(site: Site, nesting: int) -> None:
    """Raise `ModelError` if the support of a continuous latent depends on enumerated ones."""
    for bound in tensor_bounds(common_support(site.name, site.distribution.support)).values():
        values = bound.dim() - nesting - site.distribution.event_dim
        if values > 0 and not torch.equal(bound, bound[(slice(0, 1),) * values].expand_as(bound)):
            raise ModelError(
                f"the support of latent site {site.name!r} depends on discrete latents, so no single posterior covers it: sample "
                f"a site with a fixed support, and shift and scale it in the model."
            )
