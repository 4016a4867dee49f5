"""The argument of a call that holds labels, of which some are missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from amortvi.data import Batch
from amortvi.errors import DataError, ModelError
from amortvi.model import Program

__all__ = ["LabelArgument", "integer_labels"]

_MISSING = -1


@dataclass(frozen=True)
class LabelArgument:
    """The place of the labels among the arguments of a call.

    Args:
        name: the name of the argument.
        position: its position, if it is not passed by name.
    """

    name: str
    position: int | None

    @classmethod
    def find(cls, name: str, program: Program, example: Batch) -> LabelArgument:
        """Return the place of the argument ``name`` of a model that is called with ``example``.

        Raises:
            ModelError: the model has no such argument, or it is not passed.
            DataError: the observations consist of labels alone, or a label is not an integer of at least -1.
        """
        if name in example.kwargs:
            found = cls(name, None)
        else:
            names = list(program.signature.parameters)
            position = names.index(name) if name in names else len(names)
            if position >= len(example.args):
                raise ModelError(
                    f"labels={name!r} is not among the arguments that are passed to the model ({', '.join(names)}): it got "
                    f"{example.describe()}. Pass the labels with the data, as in fit((x, {name})), and name the argument of the "
                    f"model that receives them."
                )
            found = cls(name, position)
        if len(list(example.tensors())) == 1:
            raise DataError(
                f"the observations hold nothing but the labels {name!r}: pass data too, as in fit((x, {name}))."
            )
        found.check(example)
        return found

    def of(self, batch: Batch) -> Tensor:
        """Return the labels, ``(B,)``, as they are passed."""
        return batch.kwargs[self.name] if self.position is None else batch.args[self.position]

    def removed(self, batch: Batch) -> Batch:
        """Return the batch without the labels."""
        if self.position is None:
            return replace(batch, kwargs={name: value for name, value in batch.kwargs.items() if name != self.name})
        return replace(batch, args=batch.args[: self.position] + batch.args[self.position + 1 :])

    def replaced(self, batch: Batch, labels: Tensor) -> Batch:
        """Return the batch with other labels, ``(B,)``."""
        labels = labels.to(self.of(batch).dtype)
        if self.position is None:
            return replace(batch, kwargs={**batch.kwargs, self.name: labels})
        return replace(batch, args=(*batch.args[: self.position], labels, *batch.args[self.position + 1 :]))

    def added(self, x: Any, example: Batch) -> Any:
        """Return the user's observations ``x`` with missing labels, if they are ``example``'s arguments but for the labels."""
        if isinstance(x, Mapping):
            if self.name in x or self.position is not None or not x:
                return x
            return {**x, self.name: _missing(next(iter(x.values())))}
        given = x if isinstance(x, tuple) else (x,)
        is_array = all(hasattr(value, "shape") or isinstance(value, list) for value in given)
        if self.position is None or not is_array or len(given) != len(example.args) - 1:
            return x
        return (*given[: self.position], _missing(given[0]), *given[self.position :])

    def check(self, batch: Batch, labels: int | None = None) -> None:
        """Raise `DataError` unless every label of the batch is an integer from -1 to ``labels - 1``, as far as that is known."""
        values = self.of(batch)
        if values.dim() != 1:
            raise DataError(
                f"the labels {self.name!r} must be one integer per observation, of shape (N,); got {tuple(values.shape)}: pass "
                f"class numbers instead of indicators, as argmax(-1) gives them."
            )
        wrong = (values != values.round()) | (values < _MISSING)
        if labels is not None:
            wrong |= values >= labels
        if bool(wrong.any()):
            expected = "nonnegative integers" if labels is None else f"integers from 0 to {labels - 1}"
            raise DataError(
                f"the labels {self.name!r} must be {expected}, or {_MISSING} where a label is missing; got "
                f"{values[wrong][0].item():g}, first at [{int(wrong.nonzero()[0])}]."
            )


def integer_labels(name: str, program: Program, x: Any) -> Any:
    """Return observations in which the labels are integers, with -1 for NaN, if they are given as whole numbers or NaN.

    Args:
        name: the name of the model's argument that holds the labels.
        program: the model.
        x: the user's observations; what is not a tuple or a dict of arrays is returned as it is.
    """
    if isinstance(x, Mapping) and name in x:
        return {**x, name: _as_integers(x[name])}
    names = list(program.signature.parameters)
    if isinstance(x, tuple) and name in names[: len(x)]:
        position = names.index(name)
        return (*x[:position], _as_integers(x[position]), *x[position + 1 :])
    return x


def _as_integers(labels: Any) -> Any:
    values = labels if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels, dtype=np.float64))
    if not values.is_floating_point():
        return labels
    whole = values.nan_to_num(_MISSING)
    return whole.long() if bool((whole == whole.round()).all()) else labels


def _missing(values: Any) -> Tensor:
    return torch.full((len(values),), _MISSING)
