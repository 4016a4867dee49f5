"""What an estimator says about its training: history, status, and a warning where a fit is used that has not converged."""

from __future__ import annotations

import math
import warnings

from torch.nn.parameter import UninitializedParameter

from amortvi._util.lazy import pandas as pd
from amortvi._util.text import MISSING, html_summary, number
from amortvi.errors import ConvergenceWarning, NotFittedError
from amortvi.families import FamilyChoice, family_label
from amortvi.training import Convergence, Status, Trainer, history_frame

__all__ = ["TrainingRecord"]


class TrainingRecord:
    """The training of an estimator, as users read it."""

    family: FamilyChoice
    _trainer: Trainer
    _calls: tuple[str, ...]
    _has_warned = False

    @property
    def freeze_model(self) -> bool:
        """Whether only the posterior is trained."""
        return self._trainer.freeze_model

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: ELBO, reconstruction and KL in nats per observation, learning rate, seconds.

        The KL is that of the latents in the data plate. The ELBO also contains the terms outside the plate, such as the KL of the
        global latents, divided by the number of observations.
        """
        return history_frame(self._trainer.records)

    @property
    def calls(self) -> tuple[str, ...]:
        """The calls of `fit` and `fit_encoder` since the estimator was created or loaded, with the options that were given."""
        return self._calls

    @property
    def convergence(self) -> Convergence | None:
        """How the last fit ended, and what training longer would gain; ``None`` before the first."""
        return self._trainer.convergence

    @property
    def status(self) -> Status | None:
        """How the last fit ended, such as ``"converged"`` (see `Convergence`); ``None`` before the first."""
        return None if self.convergence is None else self.convergence.status

    def summary(self) -> str:
        """Return a line about the training: family, length, how it ended, and the last bound per observation.

        Raises:
            NotFittedError: no epoch has been trained.
        """
        if self.convergence is None or not self._trainer.records:
            raise NotFittedError("there is no fit to summarize: call fit first.")
        records = self._trainer.records
        seconds, epochs = sum(record.seconds for record in records), f"{len(records)} epoch{'s' * (len(records) > 1)}"
        kept = next(record for record in reversed(records) if record.epoch == self.convergence.epoch)
        best = "" if kept is records[-1] else f", best at epoch {kept.epoch}"
        held_out = "" if math.isnan(kept.validation_elbo) else f", validation ELBO {kept.validation_elbo:.4g}"
        return (
            f"{family_label(self.family)}: {epochs}, {seconds:.3g} s{best}: training ELBO {kept.elbo:.4g}{held_out} nats per "
            f"observation; {self.convergence}."
        )

    def warn_unless_converged(self) -> None:
        """Issue a `ConvergenceWarning`, once per fit, if the last fit is not known to have converged."""
        if self.convergence is None or self.convergence.converged or self._has_warned:
            return
        self._has_warned = True
        warnings.warn(
            f"this fit of {family_label(self.family)!r} is not known to have converged: {self.convergence.reason}. Call "
            f"fit(x) without epochs to train until it has.",
            ConvergenceWarning,
            stacklevel=3,
        )

    def _repr_html_(self) -> str:
        records, convergence = self._trainer.records, self.convergence
        parameters = [
            each for each in self._trainer.network.parameters() if not isinstance(each, UninitializedParameter)
        ]
        return html_summary(
            "AmortizedVI",
            {
                "family": family_label(self.family),
                "status": "not trained" if convergence is None else convergence,
                "epochs": len(records),
                "ELBO": f"{number(records[-1].elbo, 4)} nats per observation, in the last epoch"
                if records
                else MISSING,
                "parameters": f"{sum(each.numel() for each in parameters):,} of encoder and family",
                "device": next((each.device for each in parameters), "cpu"),
            },
        )

    def __repr__(self) -> str:
        status = "" if self.status is None else f", status={self.status!r}"
        return f"AmortizedVI(family={family_label(self.family)!r}, epochs={len(self._trainer.records)}{status})"
