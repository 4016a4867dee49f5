"""The interface of scikit-learn's estimators, so that an estimator can be cloned, and be a step of a pipeline."""

from __future__ import annotations

import copy
import functools
import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, Self, TypeVar, cast

import numpy as np
import torch

from amortvi._util.lazy import require
from amortvi.errors import OptionError
from amortvi.inference.analysis import PosteriorAnalysis
from amortvi.inference.state import EstimatorState

__all__ = ["ScikitLearnInterface", "accepts_no_labels"]

P = ParamSpec("P")
Owner = TypeVar("Owner")
Result = TypeVar("Result")


def accepts_no_labels(
    fit: Callable[Concatenate[Owner, Any, P], Result],
) -> Callable[Concatenate[Owner, Any, P], Result]:
    """Let ``fit(x, **options)`` be called as ``fit(x, None, **options)``, as scikit-learn's pipelines do."""

    @functools.wraps(fit)
    def accepting(self: Owner, x: Any, y: None = None, **options: Any) -> Result:
        if y is not None:
            raise OptionError(
                f"y must be None, because fit learns the distribution of x; got {type(y).__name__}. Pass the arguments of a "
                f"model with several of them as a tuple, x=(x, y)."
            )
        return cast(Callable[..., Result], fit)(self, x, **options)

    own = inspect.signature(fit)
    self_, x, *fields = own.parameters.values()
    y = inspect.Parameter("y", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation="None")
    accepting.__signature__ = own.replace(parameters=[self_, x, y, *fields])  # type: ignore[attr-defined]  # read by inspect
    return cast(Callable[Concatenate[Owner, Any, P], Result], accepting)


class ScikitLearnInterface(EstimatorState, PosteriorAnalysis):
    """What scikit-learn expects of an estimator, without depending on it."""

    _choices: Mapping[str, Any]
    """The arguments of the constructor other than model and encoder."""

    @property
    @abstractmethod
    def model(self) -> Callable[..., Any]:
        """The model with its learned parameters; it can be given to another `AmortizedVI`."""

    @property
    @abstractmethod
    def encoder(self) -> torch.nn.Module:
        """The encoder."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor.

        Args:
            deep: has no effect: models and encoders have no options of scikit-learn's kind.
        """
        return {"model": self.model, "encoder": self.encoder, **self._choices}

    def set_params(self, **params: Any) -> Self:
        """Replace arguments of the constructor, before any data have been seen.

        Args:
            **params: arguments of the constructor, such as ``family="full"``.

        Returns:
            The estimator itself.

        Raises:
            OptionError: the constructor has no such argument, or the estimator has seen data.
            AmortviError: an argument is invalid; nothing has changed.
        """
        current = self.get_params()
        unknown = sorted(params.keys() - current.keys())
        if unknown:
            raise OptionError(
                f"set_params has no parameter {unknown[0]!r}: there are {sorted(current)}. Pass options of fit, such as epochs, "
                f"to fit."
            )
        changed = {name: value for name, value in params.items() if value is not current[name]}
        if changed and self._example is not None:
            raise OptionError(
                f"set_params cannot change {', '.join(changed)} of an estimator that has seen data, which would undo its "
                f"training: make another AmortizedVI."
            )
        if changed:
            vars(self).update(vars(cast(Callable[..., Self], type(self))(**{**current, **changed})))
        return self

    def fit_transform(self, x: Any, y: Any = None, **options: Any) -> np.ndarray[Any, Any]:
        """Train, and return the posterior means of the training data.

        Args:
            x: observations, as for `fit`.
            y: ignored; the labels of a pipeline that ends with a classifier.
            **options: those of `fit`.

        Returns:
            As `transform`.

        Raises:
            AmortviError: as `fit`.
        """
        cast(Any, self).fit(x, **options)
        return self.transform(x)

    def transform(self, x: Any) -> np.ndarray[Any, Any]:
        """Return the posterior mean of each observation as one row of features.

        Args:
            x: observations, as for `fit`.

        Returns:
            ``(N, d)``: the means of all latent sites in the data plate, each in its own support, flattened and side by side; see
            `get_feature_names_out`.

        Raises:
            NotFittedError: no data have been seen.
            DataError: the observations cannot be used.
            NonFiniteError: a mean is NaN or infinite.

        Example:
            >>> import torch, amortvi as avi
            >>> model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.5], [0.3, 1.0]]), scale=0.5)
            >>> x = model.simulate(10, seed=0)
            >>> vi = avi.AmortizedVI(model, avi.encoders.MLP(2, [4]), "full").setup(x, seed=0)
            >>> vi.transform(x).shape, vi.get_feature_names_out().tolist()
            ((10, 2), ['z[0]', 'z[1]'])
        """
        posterior = self.posterior(x, copy=False)
        means = posterior.mean
        return torch.cat([means[site.name].flatten(1) for site in posterior.latents.sites], dim=1).numpy()

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray[Any, Any]:
        """Return the names of the columns of `transform`.

        Args:
            input_features: ignored.

        Raises:
            NotFittedError: no data have been seen.
        """
        labels = [label for site in self.generative.latents.sites for label in site.labels]
        return np.asarray(labels, dtype=object)

    def score(self, x: Any, y: Any = None) -> float:
        """Return the mean ELBO per observation, in nats: higher is better.

        Args:
            x: held-out observations, as for `fit`.
            y: ignored.

        Raises:
            AmortviError: as `evaluate`.
        """
        return float(self.evaluate(x, seed=0)["elbo"].mean())

    def __sklearn_clone__(self) -> Self:
        """Return an estimator with copies of model and encoder, which has seen no data; called by ``sklearn.base.clone``."""
        if self._trainer.records:
            raise OptionError(
                "an estimator that was trained cannot be cloned: model and encoder are trained in place, so a clone would start "
                "from what was learned. Clone it before fit, or make another AmortizedVI; copy.deepcopy copies it as it is."
            )
        memo: dict[int, Any] = {}  # modules that are shared stay shared between the copies
        program = self.generative.program.independent_copy(memo)
        encoder, choices = copy.deepcopy((self.encoder, dict(self._choices)), memo)
        model = program.model if isinstance(program.model, torch.nn.Module) else program
        return cast(Callable[..., Self], type(self))(model, encoder, **choices)

    def __sklearn_is_fitted__(self) -> bool:
        """Return whether posteriors can be computed; called by scikit-learn."""
        return self._example is not None

    def __sklearn_tags__(self) -> Any:
        """Return the description of a transformer that needs no labels; called by scikit-learn."""
        tags = require("sklearn.utils", extra="diagnostics", purpose="AmortizedVI in a pipeline")
        return tags.Tags(
            estimator_type=None, target_tags=tags.TargetTags(required=False), transformer_tags=tags.TransformerTags()
        )
