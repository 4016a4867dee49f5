"""Point masses at transformed latents, in place of those of Pyro, whose divergence is wrong."""

from __future__ import annotations

from typing import Any

from pyro.distributions import Delta, Distribution
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import register_kl

__all__ = ["PointMass", "PointMasses"]


class PointMass(Delta):
    """A point mass at a transformed latent, with the density of the change of variables."""


@register_kl(PointMass, Distribution)  # type: ignore[untyped-decorator]  # torch's decorator is not annotated
def _kl_point_mass(q: PointMass, p: Distribution) -> Tensor:
    # Pyro's rule for Delta omits the density, and with it the Jacobian in TraceMeanField_ELBO.
    log_density: Tensor = q.log_density
    return log_density - p.log_prob(q.v)


class PointMasses(Messenger):
    """Replaces the ``Delta`` sites of a guide with `PointMass`."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if type(fn) is Delta:
            msg["fn"] = PointMass(  # type: ignore[no-untyped-call]  # Pyro's Delta is not annotated
                fn.v, log_density=fn.log_density, event_dim=fn.event_dim
            )
