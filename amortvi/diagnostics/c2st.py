r"""The classifier two-sample test (Lopez-Paz and Oquab, 2017).

A classifier is trained to tell the rows of two samples *a* and *b* apart. Its expected accuracy on held-out rows is

.. math::

    \text{accuracy} = \tfrac12 + \tfrac12 \, E_a[h] - \tfrac12 \, E_b[h],

where :math:`h` is 1 if it assigns a row to *a*, else 0. It is one half for two samples of one distribution. The best possible
classifier has accuracy :math:`\tfrac12 + \tfrac12 \mathrm{TV}(a, b)`, so any classifier gives a lower bound on the total
variation distance.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor

from amortvi._util.checks import nonnegative_int, positive_int
from amortvi._util.lazy import pandas as pd
from amortvi._util.lazy import require, stats
from amortvi.errors import DataError, OptionError

__all__ = ["C2ST", "ClassifierChoice", "c2st", "compare_pairs"]

ClassifierChoice = Literal["mlp", "linear"] | Any
"""``"mlp"``, a small network; ``"linear"``, a logistic regression; or a classifier with scikit-learn's interface."""


@dataclass(frozen=True)
class C2ST:
    """How well a classifier tells two samples apart.

    Args:
        accuracy: the fraction of held-out rows that are assigned to the right sample: 0.5 for samples of one distribution, 1
            for samples that do not overlap.
        standard_error: the standard error of the accuracy.
        p_value: the probability of at least this accuracy for two samples of one distribution.
        rows: the number of rows of each sample.
        folds: the number of folds of the cross-validation.
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
    """Test whether a classifier can tell two samples apart.

    The classifier is cross-validated on standardized columns. If one sample is larger, a random subset of it is used, so that
    the chance level is one half.

    Args:
        a: a sample, ``(N, D)`` or ``(N,)``: a tensor, array or DataFrame of finite numbers.
        b: the other sample, ``(M, D)`` or ``(M,)``.
        classifier: ``"mlp"``, a network with two hidden layers; ``"linear"``, a logistic regression, which is sensitive only
            to the means; or a classifier with scikit-learn's interface (``fit`` and ``predict``), which is cloned.
        folds: the number of folds of the cross-validation.
        seed: the seed of the folds and of the training of the network.

    Returns:
        The accuracy, its standard error and its p-value.

    Raises:
        DataError: a sample is not a matrix of finite numbers, or the samples have different columns.
        OptionError: ``folds`` is less than two or more than the number of rows, the classifier is unknown, or ``seed`` is not
            a nonnegative integer.
        MissingDependencyError: scikit-learn is not installed (extra ``diagnostics``).

    Example:
        >>> import torch
        >>> from amortvi.diagnostics.c2st import c2st
        >>> a = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
        >>> test = c2st(a[:200], a[200:] + 2.0, classifier="linear")
        >>> test.accuracy > 0.85, test.p_value < 1e-6
        (True, True)
    """
    first, second = _matrix("a", a), _matrix("b", b)
    if first.shape[1] != second.shape[1]:
        raise DataError(f"a and b must have the same columns; a has {first.shape[1]}, b has {second.shape[1]}.")
    generator = np.random.default_rng(nonnegative_int("seed", seed))
    rows = min(len(first), len(second))
    chosen = (sample[generator.permutation(len(sample))[:rows]] for sample in (first, second))
    return compare_pairs(*chosen, classifier=classifier, folds=folds, seed=seed)


def compare_pairs(
    a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], *, classifier: ClassifierChoice, folds: int, seed: int
) -> C2ST:
    """Run `c2st` on samples ``(N, D)`` whose rows form pairs, such as two draws for one observation; a pair shares a fold."""
    parts, seed = positive_int("folds", folds), nonnegative_int("seed", seed)
    rows = len(a)
    if not 2 <= parts <= rows:
        raise OptionError(f"folds must be from 2 to the number of rows of a sample, {rows}; got {parts}.")
    template = _classifier(classifier, a.shape[1], seed)
    clone, scaler = _sklearn("base").clone, _sklearn("preprocessing").StandardScaler
    fold = np.random.default_rng(seed).permutation(np.arange(rows) % parts)
    right = np.zeros(rows)  # how many rows of each pair are assigned to the right sample
    for held_out in range(parts):
        train, test = fold != held_out, fold == held_out
        features = np.concatenate([a[train], b[train]])
        labels = np.repeat([0, 1], train.sum())
        scale = scaler().fit(features)
        model = clone(template)
        with warnings.catch_warnings():
            # A classifier that has not converged has less power, but the test stays valid.
            warnings.filterwarnings("ignore", module="sklearn")
            model.fit(scale.transform(features), labels)
        right[test] = (model.predict(scale.transform(a[test])) == 0).astype(float)
        right[test] += model.predict(scale.transform(b[test])) == 1
    accuracy = float(right.mean() / 2)
    independent = max(float(right.std(ddof=1)) / 2 / math.sqrt(rows), math.sqrt(0.25 / (2 * rows)))
    # The folds are not independent: a chance difference between two of them counts twice, once when each is held out. This
    # at most doubles the variance, as it does for a classifier that uses the difference of the means.
    error = math.sqrt(2) * independent
    return C2ST(accuracy, error, float(stats.norm.sf((accuracy - 0.5) / error)), rows, parts)


def _sklearn(module: str) -> Any:
    return require(f"sklearn.{module}", extra="diagnostics", purpose="a classifier two-sample test")


def _classifier(choice: ClassifierChoice, columns: int, seed: int) -> Any:
    if isinstance(choice, str) and choice == "mlp":
        width, network = min(10 * columns, 128), _sklearn("neural_network").MLPClassifier
        return network((width, width), max_iter=200, early_stopping=True, random_state=seed % 2**32)
    if isinstance(choice, str) and choice == "linear":
        return _sklearn("linear_model").LogisticRegression(max_iter=1000)
    if not hasattr(choice, "fit") or not hasattr(choice, "predict") or isinstance(choice, type):
        raise OptionError(
            f"classifier must be 'mlp', 'linear' or a classifier with scikit-learn's interface; got {choice!r}."
        )
    return choice


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
