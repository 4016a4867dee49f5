"""Where the posteriors of a batch come from: the encoder's answer, or parameters found for each observation by itself."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod

from torch import Tensor
from torch.distributions import Distribution

from amortvi.families import Family, family_label
from amortvi.guide import AmortizedGuide
from amortvi.observations import Batch

__all__ = ["Amortized", "PosteriorSource", "Stored"]


class PosteriorSource(ABC):
    """Gives the posteriors of a batch of observations."""

    family: Family
    """The family that they belong to."""
    label: str
    """The name under which tables show it."""

    @abstractmethod
    def parameters(self, batch: Batch) -> Tensor:
        """Return the parameters of the posterior of each observation, ``(B, P)``."""

    def __call__(self, batch: Batch) -> Distribution:
        """Return the posteriors of a batch: batch shape ``(B,)``, event shape ``(D,)``."""
        return self.family.distribution(self.parameters(batch))


class Amortized(PosteriorSource):
    """The encoder's answer.

    Args:
        guide: a guide that is set up; it is copied as it is now, in evaluation mode, without gradients.
    """

    def __init__(self, guide: AmortizedGuide) -> None:
        model = guide.__dict__["model"]
        # The model is not needed to evaluate the guide, and may be large: the copy shares it.
        self.guide = copy.deepcopy(guide, {id(model): model}).eval().requires_grad_(False)
        self.family = self.guide.family
        self.label = family_label(guide.family_choice)

    def parameters(self, batch: Batch) -> Tensor:
        return self.guide.parameters_of(*batch.args, **batch.kwargs)


class Stored(PosteriorSource):
    """Parameters found for each observation by itself, which its batch carries along.

    Args:
        family: what they are the parameters of.
        label: the name under which tables show it.
    """

    def __init__(self, family: Family, label: str) -> None:
        self.family = family
        self.label = label

    def parameters(self, batch: Batch) -> Tensor:
        assert batch.parameters is not None
        return batch.parameters
