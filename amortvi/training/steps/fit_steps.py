"""The steps of a fit, kept for later fits with the same options, so that what was recorded serves them too."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from amortvi.compile import needs_closure
from amortvi.errors import OptionError
from amortvi.objectives import NAMED
from amortvi.training.distributed import ALONE, Group
from amortvi.training.options import FitOptions
from amortvi.training.steps.compiled import CompiledEstimation, CompiledStep
from amortvi.training.steps.distributed import DistributedEstimation, DistributedStep
from amortvi.training.steps.eager import EagerEstimation, EagerStep
from amortvi.training.steps.policy import Policy
from amortvi.training.steps.step import Step, Totals
from amortvi.training.steps.update import Estimation, Update

__all__ = ["FitSteps"]


@dataclass
class FitSteps:
    """The steps of a fit.

    Args:
        update: what the training step computes.
        step: one update of the parameters.
        reference: the same update with a check of every number.
        estimation: the estimate of the objective on validation data.
        policy: when steps are recorded and compiled.
        key: what the steps depend on.
    """

    update: Update
    step: Step
    reference: Step
    estimation: Step
    policy: Policy
    key: Hashable

    @classmethod
    def for_fit(
        cls,
        update: Update,
        validation_size: int | None,
        options: FitOptions,
        earlier: FitSteps | None,
        group: Group = ALONE,
    ) -> FitSteps:
        """Return the steps of an ``earlier`` fit if they are the same, and new ones otherwise.

        Args:
            update: what the training step computes.
            validation_size: the number of validation observations, if known.
            options: the options of the fit.
            earlier: the steps of an earlier fit, if any.
            group: the processes that train together.

        Raises:
            OptionError: the optimizer evaluates the loss itself, and there are several processes.
        """
        key = _key(update, validation_size, options, group)
        if earlier is not None and earlier.key == key and not earlier.policy.gave_up:
            for part in earlier._compiled().values():
                part.distrust()
            return earlier
        policy = Policy(options.compile, options.verify)
        device = update.totals.sums.device
        estimation = Estimation(update.modules, update.objective, validation_size, Totals(device))
        if group.count > 1:
            if needs_closure(update.optimizer):
                raise OptionError(
                    f"{type(update.optimizer).__name__} evaluates the loss itself, as often as its line search needs, which "
                    f"several processes cannot do together: use another optimizer, or distributed=False."
                )
            step = DistributedStep(update, group)
            return cls(update, step, step, DistributedEstimation(estimation, group), policy, key)
        reference = EagerStep(update)
        # A line search evaluates the loss as often as it needs, so there is nothing to record; that is no reason to warn.
        eager = options.compile is False or (options.compile == "auto" and needs_closure(update.optimizer))
        return cls(
            update,
            reference if eager else CompiledStep(update, policy),
            reference,
            EagerEstimation(estimation) if options.compile is False else CompiledEstimation(estimation, policy),
            policy,
            key,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return which steps are recorded, and which are not."""
        parts = {name: part.state_dict() for name, part in self._compiled().items()}
        return {"policy": self.policy.state_dict(), **parts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue as after the steps of a fit whose `state_dict` this is."""
        self.policy.load_state_dict(state["policy"])
        for name, part in self._compiled().items():
            if name in state:
                part.load_state_dict(state[name])

    def _compiled(self) -> dict[str, CompiledStep | CompiledEstimation]:
        parts = {"step": self.step, "estimation": self.estimation}
        return {name: part for name, part in parts.items() if isinstance(part, CompiledStep | CompiledEstimation)}


def _key(update: Update, validation_size: int | None, options: FitOptions, group: Group) -> Hashable:
    objective, device = update.objective, update.totals.sums.device
    is_named = type(objective) in NAMED.values()
    return (
        (type(objective), repr(objective)) if is_named else id(objective),
        (update.observations, validation_size, update.gradient_clip, options.compile, options.verify, device),
        update.modules.freeze_model,
        group,
        tuple(map(id, (update.optimizer, *update.parameters, *update.modules.parts, *update.modules.tensors))),
    )
