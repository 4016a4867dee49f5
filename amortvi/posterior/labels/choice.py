"""The user's description of labels of which some are missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from torch import nn

from amortvi._util.checks import nonnegative_float
from amortvi.errors import EncoderError, OptionError

__all__ = ["LabelChoice", "Labels", "resolve_labels"]


@dataclass(frozen=True)
class Labels:
    """Labels of which some are missing, as an argument of the model.

    Labels are the integers 0, 1, ..., ``M - 1``; -1 or NaN marks one that is missing, for which the model gets -1. It observes
    the labels with ``obs_mask=``, so that Pyro has a discrete latent where there is none:

        >>> import pyro, torch
        >>> from pyro import distributions as dist
        >>> def model(x, y):
        ...     with pyro.plate("data", x.shape[0]):
        ...         y = pyro.sample("y", dist.Categorical(torch.ones(10) / 10), obs=y.clamp(min=0), obs_mask=y >= 0)
        ...         ...

    Args:
        argument: the name of the argument of the model that holds the labels, integer ``(B,)``.
        classifier: an `nn.Module` that is called like the encoder and returns the features ``(B, C)`` of the classifier
            ``q(y | x)``, on which a linear layer is put; by default the features of the encoder. It is trained in place.
        weight: the weight of the classification loss, which ``q(y | x)`` would otherwise learn from missing labels alone: alpha
            of Kingma et al. (2014) is ``weight`` times the number of observations.
        site: the name of the site of the labels in the model; by default that of the argument.

    Raises:
        OptionError: ``argument`` or ``site`` is not a name, or ``weight`` is not a nonnegative number.
        EncoderError: ``classifier`` is not an `nn.Module`.
    """

    argument: str = "y"
    classifier: nn.Module | None = None
    weight: float = 0.1
    site: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("argument", self.argument), ("site", self.site)):
            if not (isinstance(value, str) and value) and not (name == "site" and value is None):
                raise OptionError(f"{name} of Labels must be a name, such as 'y'; got {value!r}.")
        if self.classifier is not None and not isinstance(self.classifier, nn.Module):
            raise EncoderError(
                f"classifier of Labels must be an nn.Module that is called like the encoder, such as encoders.MLP; got "
                f"{type(self.classifier).__name__}."
            )
        nonnegative_float("weight of Labels", self.weight)


LabelChoice: TypeAlias = str | Labels
"""The name of the model's argument that holds the labels, or `Labels` with options."""


def resolve_labels(choice: LabelChoice | None) -> Labels | None:
    """Return the chosen labels, if any; raise `OptionError` if the choice is neither a name nor `Labels`."""
    if choice is None or isinstance(choice, Labels):
        return choice
    if not isinstance(choice, str):
        raise OptionError(
            f"labels must be the name of the model's argument that holds them, or Labels(...) with options; got {choice!r}."
        )
    return Labels(choice)
