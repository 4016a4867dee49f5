"""What a fit starts from: model, encoder and classifier, of which each fit trains a copy."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedBuffer

from amortvi._util.random import Stream, derived_seed, random_state
from amortvi.families import FamilyChoice
from amortvi.inference import AmortizedVI
from amortvi.model import Program
from amortvi.posterior.labels import Labels

__all__ = ["Start"]


@dataclass(frozen=True)
class Start:
    """What each fit trains, from the same parameters.

    Args:
        program: the model.
        encoder: the encoder, which may be lazy.
        labels: the labels, with their classifier, if any are missing.
    """

    program: Program
    encoder: nn.Module
    labels: Labels | None

    @property
    def modules(self) -> list[nn.Module]:
        """The model, and what is trained even if the model is frozen."""
        networks = [self.encoder, None if self.labels is None else self.labels.classifier]
        # What is not a module is refused by the estimator.
        return [self.program, *(each for each in networks if isinstance(each, nn.Module))]

    def copy(self, *, freeze_model: bool) -> Start:
        """Copy everything except a frozen model; modules that are shared stay shared between the copies."""
        memo: dict[int, Any] = {}
        for buffer in (each for module in self.modules for each in module.buffers()):
            if isinstance(buffer, UninitializedBuffer):  # unlike lazy parameters, PyTorch cannot copy them
                made = UninitializedBuffer(requires_grad=False)
                memo[id(buffer)] = made.to(device=buffer.device, dtype=buffer.dtype)
        program = self.program if freeze_model else self.program.independent_copy(memo)
        return Start(program, copy.deepcopy(self.encoder, memo), copy.deepcopy(self.labels, memo))

    def restarted(self, seed: int, *, freeze_model: bool) -> Start:
        """Copy with new parameters, except in a frozen model and in parts that are not trained, such as pretrained ones."""
        start = self.copy(freeze_model=freeze_model)
        with random_state(derived_seed(seed, Stream.RESTART)):
            for module in start.modules[freeze_model:]:
                for part in module.modules():
                    reset = getattr(part, "reset_parameters", None)
                    if callable(reset) and all(parameter.requires_grad for parameter in part.parameters(recurse=False)):
                        reset()
        return start

    def estimator(self, family: FamilyChoice, **options: Any) -> AmortizedVI:
        """Return an estimator of which the fit trains these parameters."""
        return AmortizedVI(self.program, self.encoder, family, labels=self.labels, **options)
