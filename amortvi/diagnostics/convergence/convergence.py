r"""Whether the optimizer has converged, judged from the history of a fit.

The slope of the bound over the last epochs limits the gain from doubling the number of epochs. A bound that rises like the
logarithm of the epochs, which is slower than optimizers usually converge, gains the same from each doubling: with slope
:math:`s` after :math:`n` epochs, :math:`n s \log 2`. This is the ``gain``. The fit has converged if the 95% interval of the
gain does not lie above the tolerance and is narrow enough to be informative.

If there is a validation ELBO, it is judged instead of the training ELBO, for two reasons. It is computed with the same draws
after each epoch, so it is less noisy; and if only the training ELBO rises, the problem is overfitting, not the optimizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from amortvi._util.checks import positive_float
from amortvi._util.lazy import pandas as pd
from amortvi.diagnostics.convergence.trend import FEWEST_EPOCHS, Series, Trend, fit_trend, window_of
from amortvi.errors import NotFittedError
from amortvi.inference import AmortizedVI

__all__ = ["Convergence", "State", "convergence", "read_history"]

State: TypeAlias = Literal["converged", "rising", "falling", "overfitting", "too few epochs", "too much scatter"]

_RELATIVE_TOLERANCE = 1e-4
"""The smallest tolerance, relative to the bound: the precision that optimizers reach in single precision."""
_WIDEST_MARGIN = 10
"""The widest margin of the gain that is still informative, in multiples of the tolerance."""
_STEADY = 0.35
"""A bound that rises at this fraction of its earlier pace has not begun to level off."""
_SMALL_LEARNING_RATE = 0.05
"""Below this fraction of the largest learning rate, a bound may be flat only because the steps are small."""


@dataclass(frozen=True)
class Convergence:
    """Whether a fit has converged.

    Args:
        state: the judgment; ``"overfitting"`` means that the validation bound falls while the training bound rises.
        epochs: the number of epochs.
        training: the trend of the training bound; ``None`` after too few epochs.
        validation: the trend of the validation bound; ``None`` without one, or after too few epochs.
        tolerance: the largest gain, in nats per observation, that does not justify doubling the epochs.
        overfitting: the training bound minus the validation bound, averaged over the last epochs; ``None`` without validation
            data. It need not be zero without overfitting, since the observations differ.
        best_epoch: the epoch with the best validation bound; without validation data, with the best training bound.
        learning_rate: the last learning rate, as a fraction of the largest.
    """

    state: State
    epochs: int
    training: Trend | None
    validation: Trend | None
    tolerance: float
    overfitting: float | None
    best_epoch: int
    learning_rate: float

    @property
    def converged(self) -> bool:
        """Whether the state is ``"converged"``."""
        return self.state == "converged"

    @property
    def trend(self) -> Trend | None:
        """The trend that was judged: that of the validation bound if there is one, else that of the training bound."""
        return self.validation or self.training

    @property
    def unfinished(self) -> bool:
        """Whether the optimizer, not the encoder, may be to blame for whatever an encoder loses.

        The history does not show a trend, or the bound is falling, too noisy, or rising without having begun to level off.
        """
        if self.state == "rising" and self.trend is not None:
            return self.trend.pace > _STEADY
        return self.state not in ("converged", "overfitting", "rising")

    @property
    def reason(self) -> str:
        """The reason for the state, in one or two sentences."""
        trend = self.trend
        if trend is None:
            return f"{self.epochs} epochs are too few to estimate a trend; at least {FEWEST_EPOCHS} are needed."
        name = "training" if self.validation is None else "validation"
        change = (
            f"by {trend.rise:.2g} nats per observation over the last {trend.window} epochs (doubling the epochs may gain "
            f"{trend.gain:.2g} ± {trend.gain_margin:.1g})"
        )
        if self.state == "rising":
            return f"the {name} ELBO is still rising, {change}."
        if self.state == "falling":
            return f"the {name} ELBO is falling, {change}; try a smaller lr, unless the KL weight is still rising."
        if self.state == "overfitting":
            return (
                f"the validation ELBO is falling, {change}, while the training ELBO is rising: the fit overfits. The best "
                f"validation ELBO was that of epoch {self.best_epoch}; patience= stops there."
            )
        if self.state == "too much scatter":
            return f"the {name} ELBO is too noisy to judge; it rose {change}."
        reason = f"the {name} ELBO has leveled off; it rose {change}."
        if self.learning_rate >= _SMALL_LEARNING_RATE:
            return reason
        rate = f"{self.learning_rate:.2g} of its largest value"
        return f"{reason} But the learning rate had dropped to {rate}, which flattens any curve."

    def to_frame(self) -> pd.DataFrame:
        """Return the trend of each bound, one row per bound, in nats per observation."""
        rows = {name: trend for name in ("training", "validation") if (trend := getattr(self, name))}
        columns = ["level", "rise", "gain", "gain_margin", "window"]
        data = [[getattr(trend, column) for column in columns] for trend in rows.values()]
        return pd.DataFrame(data, index=pd.Index(rows, name="bound"), columns=columns)

    def __str__(self) -> str:
        gap = "" if self.overfitting is None else f" Training minus validation ELBO: {self.overfitting:.3g} nats."
        return f"{'Converged' if self.converged else 'Not converged'} after {self.epochs} epochs: {self.reason}{gap}"


def convergence(vi: AmortizedVI, *, tolerance: float = 0.1) -> Convergence:
    """Judge from `AmortizedVI.history` whether the optimizer has converged.

    The history covers all calls of `fit`. A learning rate that decays to zero flattens any curve; `Convergence.reason` says
    so. If the objective is not the plain bound (KL weights, free bits), the bound may fall for good reasons; a KL weight should
    be constant over the last fifth of the epochs. After early stopping, the parameters are those of ``best_epoch``.

    Args:
        vi: a fitted estimator.
        tolerance: the largest gain, in nats per observation, that does not justify doubling the epochs; raised to a
            ten-thousandth of the bound if it is smaller.

    Raises:
        NotFittedError: no epoch has been trained.
        OptionError: ``tolerance`` is not a finite positive number.

    References:
        Theil, 1950, "A rank-invariant method of linear and polynomial regression analysis"; Sen, 1968, "Estimates of the
        regression coefficient based on Kendall's tau".

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.ones(3, 1), scale=1.0)
        >>> x = model.simulate(200, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(3, []), freeze_model=True)
        >>> avi.convergence(vi.fit(x, epochs=25, lr=0.005, lr_schedule="constant", seed=0, progress=False)).state
        'rising'
        >>> avi.convergence(vi.fit(x, epochs=200, lr=0.02, seed=0, progress=False)).state
        'converged'
    """
    tolerance, history = positive_float("tolerance", tolerance), vi.history
    if history.empty:
        raise NotFittedError("there is no epoch to judge yet: call fit first.")
    return read_history(history, tolerance)


def read_history(history: pd.DataFrame, tolerance: float) -> Convergence:
    """Judge a history with columns ``elbo``, ``learning_rate`` and optionally ``validation_elbo``; see `convergence`."""
    training = history["elbo"].to_numpy(dtype=float)
    validation = history["validation_elbo"].to_numpy(dtype=float) if "validation_elbo" in history else np.empty(0)
    validation = _after_last_missing(validation)
    rates = history["learning_rate"].to_numpy(dtype=float)
    training_trend, validation_trend = fit_trend(training, len(history)), fit_trend(validation, len(history))
    judged = validation_trend or training_trend
    allowed = max(tolerance, _RELATIVE_TOLERANCE * abs(judged.level)) if judged else tolerance
    window = min(window_of(len(history)), len(validation))
    best = validation if validation.size else training
    return Convergence(
        state=_state(training_trend, validation_trend, allowed),
        epochs=len(history),
        training=training_trend,
        validation=validation_trend,
        tolerance=allowed,
        overfitting=float(np.mean(training[-window:]) - np.mean(validation[-window:])) if window else None,
        best_epoch=int(history.index[len(history) - len(best) + int(np.argmax(best))]),
        learning_rate=float(rates[-1] / rates.max()),
    )


def _after_last_missing(values: Series) -> Series:
    """Return the values after the last missing one: an earlier call of `fit` may have had no validation data."""
    missing = np.flatnonzero(~np.isfinite(values))
    return values[missing[-1] + 1 :] if missing.size else values


def _state(training: Trend | None, validation: Trend | None, tolerance: float) -> State:
    trend = validation or training
    if trend is None:
        return "too few epochs"
    if trend.gain - trend.gain_margin > tolerance:
        return "rising"
    if trend.gain + trend.gain_margin < -tolerance:
        training_rises = validation is not None and training is not None and training.slope > 0
        return "overfitting" if training_rises else "falling"
    return "too much scatter" if trend.gain_margin > _WIDEST_MARGIN * tolerance else "converged"
