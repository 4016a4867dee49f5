"""The warning about inactive latents at the end of a fit."""

from __future__ import annotations

import warnings

from amortvi._util.random import random_state
from amortvi.data import Observations
from amortvi.data.selection import evenly_spaced
from amortvi.diagnostics.latents.coordinates import INACTIVE_KL, coordinate_usage
from amortvi.errors import AmortviWarning
from amortvi.inference import AmortizedVI
from amortvi.training import FitOptions

__all__ = ["LEAST_STEPS", "warn_of_inactive_latents"]

LEAST_STEPS = 500
"""The number of training steps from which on a fit is checked: an encoder may start at the prior and has to learn first."""

_OBSERVATIONS = 1024
_DRAWS = 200
_LISTED = 8


def warn_of_inactive_latents(vi: AmortizedVI, x: Observations, options: FitOptions) -> None:
    """Issue a warning if the posterior of some latent coordinates equals the prior for every observation.

    amortvi appends this function to `AmortizedVI.after_fit`. A frozen model and a model without parameters are not checked,
    because data can contain no information about some latents of a given model. A trained model has learned not to use them.

    Args:
        vi: the fitted estimator.
        x: the training data; about 1,000 observations are used.
        options: the options of the fit.
    """
    is_trained = not vi.freeze_model and any(parameter.requires_grad for parameter in vi.generative.parameters())
    steps = len(vi.history) * (x.steps(options.batch_size) or 1)
    if not is_trained or steps < LEAST_STEPS:
        return
    posterior = vi.posterior(evenly_spaced(x, _OBSERVATIONS), copy=False)
    with random_state(0, vi.device):
        used = coordinate_usage(posterior, _DRAWS)
    inactive = used.inactive_labels
    if inactive:
        more = f" and {len(inactive) - _LISTED} more" if len(inactive) > _LISTED else ""
        warnings.warn(
            f"{len(inactive)} of {len(used.labels)} latent dimensions are inactive: {', '.join(inactive[:_LISTED])}{more}. "
            f"Their posterior equals the prior for every observation (KL below {INACTIVE_KL} nats), so they carry no "
            f"information about the data. If the data need no more latents, reduce the number of latents. Otherwise increase "
            f"the weight of the KL gradually, with objective=ELBO(kl_weight=LinearSchedule(epochs)), or use "
            f"ELBO(free_bits=0.1) or objective='iwae'. amortvi.latent_usage shows the details.",
            AmortviWarning,
            stacklevel=5,  # fit calls hooks through the function in amortvi/__init__.py, and a decorator calls fit
        )
