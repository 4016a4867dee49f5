"""Whether the data are such as the model's likelihood takes.

Distributions can check their arguments at each call, at the price of a third of a training step, and then they check their
parameters again and again. What the data are can be found once, for each batch; outside the support a density may be some
number all the same, and the fit would be wrong in silence.
"""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger

from amortvi._modes import evaluation_mode, random_state
from amortvi.generative import GenerativeModel
from amortvi.model_checks import check_support
from amortvi.observations import Batch
from amortvi.scoring import run_model
from amortvi.sites import is_data

__all__ = ["check_data"]


def check_data(model: GenerativeModel, batch: Batch) -> None:
    """Raise `DataError` if the model observes a value of ``batch`` outside the support of its distribution.

    Args:
        model: the generative model; it is run once, on latents drawn from the prior.
        batch: some observations, where the model is.
    """
    device = next(batch.tensors()).device
    with torch.no_grad(), evaluation_mode(model), pyro.validation_enabled(False), random_state(0, device):
        run_model(model, batch, _DataCheck())


class _DataCheck(Messenger):
    def _pyro_post_sample(self, msg: Any) -> None:
        if is_data(msg):
            check_support(msg)
