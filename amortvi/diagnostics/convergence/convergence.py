r"""Whether the optimizer was done, read from the history of a fit.

From the gain of the last tenth of the epochs, ``g``, one can tell what *as many epochs again* would bring at most: a bound
that still rises like the logarithm of the epochs, which is slower than optimizers usually are, gains the same from each doubling,
:math:`10 \log 2 \cdot g \approx 7 g`. That is the ``gain`` here. The fit has converged if the gain is not above the tolerance by
more than its standard error explains, and if that is small enough to tell.

The validation ELBO is looked at where there is one, for two reasons: it is computed with the same draws after each epoch, so it
scatters less; and a training ELBO that rises on while the validation ELBO does not is not the optimizer's to finish, but
overfitting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from amortvi._util.checks import positive_float
from amortvi._util.lazy import pandas as pd
from amortvi.diagnostics.convergence.trend import FEWEST_EPOCHS, Numbers, Trend, fit_trend, window_of
from amortvi.errors import NotFittedError
from amortvi.inference import AmortizedVI

__all__ = ["Convergence", "State", "convergence", "read_history"]

State: TypeAlias = Literal["converged", "rising", "falling", "overfitting", "too few epochs", "too much scatter"]

_RELATIVE = 1e-4
"""The part of the bound's size that the tolerance is at least: more digits no optimizer gets in single precision."""
_TELLING = 10
"""How many times the tolerance the margin of a gain may be for it to tell something."""
_QUIET = 0.05
"""Where the learning rate is below this part of its largest, a flat bound says that the steps are small, perhaps no more."""


@dataclass(frozen=True)
class Convergence:
    """Whether a fit had converged.

    Args:
        state: what the bound does. ``"overfitting"`` is a validation bound that falls while the training bound rises.
        epochs: how many there were.
        training: the trend of the training bound; ``None`` after too few epochs.
        validation: the trend of the validation bound; ``None`` where there is none, or after too few epochs.
        tolerance: the gain, in nats an observation, that is not worth as many epochs again.
        overfitting: by how much the training bound is above the validation bound in the last epochs; ``None`` without
            validation data. Other observations alone make a difference of either sign.
        best_epoch: the epoch with the best validation bound (training bound, without validation data).
        learning_rate: the last one, as a part of the largest.
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
        """Whether the optimizer was done, as far as the history tells."""
        return self.state == "converged"

    @property
    def trend(self) -> Trend | None:
        """The trend that was judged: of the validation bound where there is one."""
        return self.validation or self.training

    @property
    def reason(self) -> str:
        """Why, in words."""
        trend = self.trend
        if trend is None:
            return f"{self.epochs} epochs are too few to tell: {FEWEST_EPOCHS} are needed."
        name = "training" if self.validation is None else "validation"
        change = (
            f"by {trend.rise:.2g} nats an observation over the last {trend.window} epochs (as many epochs again as there were "
            f"may bring {trend.gain:.2g} ± {trend.gain_margin:.1g})"
        )
        if self.state == "rising":
            return f"the {name} ELBO is still rising, {change}."
        if self.state == "falling":
            return (
                f"the {name} ELBO is falling, {change}: a smaller lr may help, unless a weight of the KL still rises."
            )
        if self.state == "overfitting":
            return (
                f"the validation ELBO is falling, {change}, while the training ELBO rises: it overfits. It was best at epoch "
                f"{self.best_epoch}, where patience= stops."
            )
        if self.state == "too much scatter":
            return f"the {name} ELBO scatters too much to tell; it rose {change}."
        quiet = self.learning_rate < _QUIET
        caution = f" But the learning rate had come down to {self.learning_rate:.2g} of its largest, which flattens any curve."
        return f"the {name} ELBO has levelled off; it rose {change}.{caution if quiet else ''}"

    def to_frame(self) -> pd.DataFrame:
        """Return a row for each bound: its trend, in nats an observation."""
        found = {"training": self.training, "validation": self.validation}
        rows = {name: trend for name, trend in found.items() if trend is not None}
        columns = ["level", "rise", "gain", "gain_margin", "window"]
        data = [[getattr(trend, column) for column in columns] for trend in rows.values()]
        return pd.DataFrame(data, index=pd.Index(rows, name="bound"), columns=columns)

    def __str__(self) -> str:
        gap = "" if self.overfitting is None else f" Training less validation ELBO: {self.overfitting:.3g} nats."
        return f"{'Converged' if self.converged else 'Not converged'} after {self.epochs} epochs: {self.reason}{gap}"


def convergence(vi: AmortizedVI, *, tolerance: float = 0.1) -> Convergence:
    """Say whether the fit was run to its end.

    It goes by `AmortizedVI.history` alone, all calls of `fit` together. A learning rate that came down to nothing flattens any
    curve, which is said. Where training followed something else than the bound (a weight of the KL, free bits), the bound may
    fall for good reasons; a weight that rises must be at its end before the last fifth of the epochs. After early stopping the
    parameters are those of ``best_epoch``.

    Args:
        vi: a fitted estimator.
        tolerance: the gain from as many epochs again, in nats an observation, that is not worth them; at least a
            ten-thousandth of the bound's size is allowed.

    Raises:
        NotFittedError: there is no epoch yet.
        OptionError: ``tolerance`` is not a number above zero.

    References:
        Theil, 1950, "A rank-invariant method of linear and polynomial regression analysis"; Sen, 1968, "Estimates of the
        regression coefficient based on Kendall's tau".

    Example:
        >>> import torch, amortvi as avi
        >>> model = avi.models.LinearGaussian(torch.ones(3, 1), scale=1.0)
        >>> x = model.simulate(200, seed=0)
        >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(3, []), freeze_model=True)
        >>> avi.convergence(vi.fit(x, epochs=25, lr=1e-3, seed=0, progress=False)).state
        'rising'
        >>> avi.convergence(vi.fit(x, epochs=200, lr=0.02, seed=0, progress=False)).state
        'converged'
    """
    allowed, history = positive_float("tolerance", tolerance), vi.history
    if history.empty:
        raise NotFittedError("there is no epoch to read yet: call fit first.")
    return read_history(history, allowed)


def read_history(history: pd.DataFrame, tolerance: float) -> Convergence:
    """Judge a history, as `AmortizedVI.history` is.

    Args:
        history: a row an epoch, with ``elbo``, ``learning_rate`` and perhaps ``validation_elbo``.
        tolerance: the gain from as many epochs again that is not worth them.
    """
    training = history["elbo"].to_numpy(dtype=float)
    validation = history["validation_elbo"].to_numpy(dtype=float) if "validation_elbo" in history else np.empty(0)
    validation = _unbroken(validation)
    rates = history["learning_rate"].to_numpy(dtype=float)
    trained, validated = fit_trend(training, len(history)), fit_trend(validation, len(history))
    judged = validated or trained
    allowed = max(tolerance, _RELATIVE * abs(judged.level)) if judged else tolerance
    window = min(window_of(len(history)), len(validation))
    best = validation if validation.size else training
    return Convergence(
        state=_state(trained, validated, allowed),
        epochs=len(history),
        training=trained,
        validation=validated,
        tolerance=allowed,
        overfitting=float(np.mean(training[-window:]) - np.mean(validation[-window:])) if window else None,
        best_epoch=int(history.index[len(history) - len(best) + int(np.argmax(best))]),
        learning_rate=float(rates[-1] / rates.max()),
    )


def _unbroken(values: Numbers) -> Numbers:
    """Return the values after the last one that is missing: a fit without validation data may have come before."""
    missing = np.flatnonzero(~np.isfinite(values))
    return values[missing[-1] + 1 :] if missing.size else values


def _state(training: Trend | None, validation: Trend | None, tolerance: float) -> State:
    trend = validation or training
    if trend is None:
        return "too few epochs"
    if trend.gain - trend.gain_margin > tolerance:
        return "rising"
    if trend.gain + trend.gain_margin < -tolerance:
        rises = validation is not None and training is not None and training.slope > 0
        return "overfitting" if rises else "falling"
    return "too much scatter" if trend.gain_margin > _TELLING * tolerance else "converged"
