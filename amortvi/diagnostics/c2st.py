r"""The classifier two-sample test (Lopez-Paz and Oquab, 2017).

Two samples of one distribution cannot be told apart: a classifier that was trained to do so is right half of the time on
rows that it has not seen,

.. math::

    \text{accuracy} = \tfrac12 + \tfrac12 \, E_a[h] - \tfrac12 \, E_b[h],

where :math:`h` is 1 where it says *a*. How much more often it is right says how far the samples are apart: for the best
possible classifier the accuracy is :math:`\tfrac12 + \tfrac12 \mathrm{TV}(a, b)`, so that any other gives a lower bound of
the total variation.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from amortvi._util.checks import positive_int, seed_or_none
from amortvi._util.lazy import pandas as pd
from amortvi._util.lazy import require, stats
from amortvi.errors import DataError, OptionError

__all__ = ["C2ST", "ClassifierChoice", "c2st"]

ClassifierChoice = Literal["mlp", "linear"] | Any
"""``"mlp"``, a small network; ``"linear"``, a logistic regression; or a classifier of scikit-learn's kind."""

_WIDEST = 128


@dataclass(frozen=True)
class C2ST:
    """How well a classifier tells two samples apart.

    Args:
        accuracy: how often it is right on rows that it has not seen; 0.5 where the samples are alike, 1 where they are apart.
        standard_error: of the accuracy.
        p_value: the probability of such an accuracy, or a higher one, for samples of one distribution.
        rows: the number of rows of each sample.
        folds: the number of parts, each of which was left out once.
    """

    accuracy: float
    standard_error: float
    p_value: float
    rows: int
    folds: int

    def __str__(self) -> str:
        return (
            f"C2ST accuracy {self.accuracy:.3f} ± {self.standard_error:.3f} (p = {self.p_value:.2g}, {self.rows} rows)"
        )

    def to_frame(self) -> pd.DataFrame:
        """Return one row with the fields as columns."""
        return pd.DataFrame([vars(self)])


def c2st(a: Any, b: Any, *, classifier: ClassifierChoice = "mlp", folds: int = 5, seed: int = 0) -> C2ST:
    """Ask a classifier to tell two samples apart.

    Each row is judged by a classifier that was trained on other rows. Columns are standardised. The larger sample is cut,
    at random, to the size of the smaller, so that guessing is right half of the time.

    Args:
        a: a sample, ``(N, D)`` or ``(N,)``: a tensor, array or DataFrame of finite numbers.
        b: the other, ``(M, D)`` or ``(M,)``.
        classifier: ``"mlp"``, a network with two hidden layers; ``"linear"``, a logistic regression, which sees different
            means only; or a classifier of scikit-learn's kind (``fit`` and ``predict``), which is cloned.
        folds: how many classifiers are trained, each with one part of the rows left out.
        seed: of the parts and of the network's training.

    Returns:
        The accuracy, its standard error and p-value.

    Raises:
        DataError: a sample is no matrix of finite numbers, has other columns than the other, or fewer rows than ``folds``.
        OptionError: ``folds`` is below two, or the classifier is unknown.
        MissingDependencyError: scikit-learn is not installed (extra ``diagnostics``).

    Example:
        >>> import torch
        >>> from amortvi.diagnostics import c2st
        >>> a = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> test = c2st(a[:200], a[200:] + 2.0, classifier="linear")
        >>> test.accuracy > 0.85, test.p_value < 1e-6
        (True, True)
    """
    first, second = _matrix("a", a), _matrix("b", b)
    if first.shape[1] != second.shape[1]:
        raise DataError(f"a and b must have the same columns; a has {first.shape[1]}, b has {second.shape[1]}.")
    generator = np.random.default_rng(_seed(seed))
    rows = min(len(first), len(second))
    chosen = (part[generator.permutation(len(part))[:rows]] for part in (first, second))
    return compare_pairs(*chosen, classifier=classifier, folds=folds, seed=seed)


def compare_pairs(
    a: npt.NDArray[np.float64],
    b: npt.NDArray[np.float64],
    *,
    classifier: ClassifierChoice,
    folds: int,
    seed: int,
) -> C2ST:
    """Tell two samples apart whose rows are pairs, such as two draws for one observation; both of a pair are left out at once.

    Args:
        a: ``(N, D)``.
        b: ``(N, D)``.
        classifier: as for `c2st`.
        folds: as for `c2st`.
        seed: as for `c2st`.
    """

    parts = positive_int("folds", folds)
    rows = len(a)
    if not 2 <= parts <= rows:
        raise OptionError(f"folds must be from 2 to the {rows} rows of a sample; got {parts}.")
    template = _classifier(classifier, a.shape[1], _seed(seed))
    clone = require("sklearn.base", extra="diagnostics", purpose="a classifier two-sample test").clone
    scaler = require(
        "sklearn.preprocessing", extra="diagnostics", purpose="a classifier two-sample test"
    ).StandardScaler
    part = np.random.default_rng(_seed(seed)).permutation(np.arange(rows) % parts)
    right = np.zeros(rows)  # how many of a pair are told rightly
    for left_out in range(parts):
        train, test = part != left_out, part == left_out
        features = np.concatenate([a[train], b[train]])
        labels = np.repeat([0, 1], train.sum())
        scale = scaler().fit(features)
        model = clone(template)
        with warnings.catch_warnings():
            # How far a network is trained decides how much it sees, not whether the test is right.
            warnings.filterwarnings("ignore", module="sklearn")
            model.fit(scale.transform(features), labels)
        right[test] = (model.predict(scale.transform(a[test])) == 0).astype(float)
        right[test] += model.predict(scale.transform(b[test])) == 1
    accuracy = float(right.mean() / 2)
    independent = max(float(right.std(ddof=1)) / 2 / math.sqrt(rows), math.sqrt(0.25 / (2 * rows)))
    # What one part says of another by chance, it says twice: when either is left out. At most this doubles the variance, as
    # it does for a classifier by the difference of the means.
    spread = math.sqrt(2) * independent
    return C2ST(accuracy, spread, float(stats.norm.sf((accuracy - 0.5) / spread)), rows, parts)


def _classifier(choice: ClassifierChoice, columns: int, seed: int) -> Any:
    if choice == "mlp":
        network = require("sklearn.neural_network", extra="diagnostics", purpose="a classifier two-sample test")
        width = min(10 * columns, _WIDEST)
        return network.MLPClassifier((width, width), max_iter=200, early_stopping=True, random_state=seed % 2**32)
    if choice == "linear":
        linear = require("sklearn.linear_model", extra="diagnostics", purpose="a classifier two-sample test")
        return linear.LogisticRegression(max_iter=1000)
    if not hasattr(choice, "fit") or not hasattr(choice, "predict") or isinstance(choice, type):
        raise OptionError(f"classifier must be 'mlp', 'linear' or a classifier of scikit-learn's kind; got {choice!r}.")
    return choice


def _seed(seed: int) -> int:
    checked = seed_or_none(seed)
    if checked is None:
        raise OptionError("seed must be an integer: the parts that are left out are drawn from it; got None.")
    return checked


def _matrix(name: str, value: Any) -> npt.NDArray[np.float64]:
    """Return a sample as a matrix of finite numbers, or raise `DataError`."""
    try:
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} cannot be read as a matrix of numbers: {error}.") from error
    array = array[:, None] if array.ndim == 1 else array
    if array.ndim != 2 or not array.size:
        raise DataError(f"{name} must have shape (rows, columns), with at least one of each; got {array.shape}.")
    if not np.isfinite(array).all():
        raise DataError(f"{name} has {int((~np.isfinite(array)).sum())} values that are not finite.")
    return array
