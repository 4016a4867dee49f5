"""amortvi: the whole `AmortizedVI.fit`, and the compiled step alone."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
from torch import nn

import amortvi as avi
from amortvi.data import Batch, Minibatch
from amortvi.training.modules import TrainedModules
from amortvi.training.steps import CompiledStep, Policy, Totals, Update
from benchmarks.competitors.problem import Problem
from benchmarks.harness import Competitor

__all__ = ["compiled_steps", "estimator", "fits"]


def estimator(problem: Problem, family: avi.families.FamilyChoice = "diagonal") -> avi.AmortizedVI:
    """Return an estimator with the architecture of ``problem``, not yet fitted."""
    decoder = nn.Sequential(
        nn.Linear(problem.latents, problem.hidden), nn.ReLU(), nn.Linear(problem.hidden, problem.features)
    )
    model = avi.models.VAE(decoder, problem.latents)
    return avi.AmortizedVI(model, avi.encoders.MLP(problem.features, [problem.hidden]), family)


def fits(problem: Problem, epochs: int, *, family: str = "diagonal", **options: Any) -> Competitor:
    """Return a whole call of `fit`: checks of the data, shuffling, history and, if requested, the progress bar.

    Args:
        problem: the model and the data.
        epochs: epochs per run; a further run continues from the last one.
        family: the posterior family.
        **options: further fields of `FitOptions`. By default the fit is compiled and shows no progress bar; the output
            of a progress bar is discarded.
    """
    vi = estimator(problem, family)
    options = {"compile": True, "progress": False, "seed": 0} | options

    def run() -> None:
        with open(os.devnull, "w") as discarded, contextlib.redirect_stderr(discarded):
            vi.fit(problem.x, epochs=epochs, batch_size=problem.batch_size, lr=problem.lr, **options)

    return Competitor(run, lambda: float(vi.history["elbo"].iloc[-1]))


def compiled_steps(
    problem: Problem, epochs: int, *, family: avi.families.FamilyChoice = "diagonal", compiled: Any = True
) -> Competitor:
    """Return the compiled steps of a fit without the fit: no shuffling, history, seeds or snapshots of the parameters.

    The minibatches are chosen once, beforehand. As in a fit, the step gathers their rows.

    Args:
        problem: the model and the data.
        epochs: epochs per run.
        family: the posterior family.
        compiled: whether the steps are compiled; ``"auto"`` records them only, as the default of `fit` does.
    """
    vi = estimator(problem, family).setup(problem.x, seed=0)
    modules = TrainedModules(vi.generative, vi.guide.network, freeze_model=False)
    modules.train()
    totals = Totals(torch.device("cpu"))
    step = CompiledStep(
        Update(
            modules,
            avi.objectives.ELBO(),
            observations=len(problem.x),
            totals=totals,
            optimizer=avi.FitOptions().optimizer(modules.parameters, lr=problem.lr),
            parameters=modules.parameters,
            gradient_clip=avi.FitOptions().gradient_clip,
        ),
        Policy(compiled, "warn"),
    )
    data = Batch((problem.x,))
    minibatches = [Minibatch(data, rows) for rows in torch.randperm(len(problem.x)).split(problem.batch_size)]

    def run() -> None:
        with vi.generative.program.own_parameters():
            step.begin()
            for _ in range(epochs):
                totals.clear()
                for minibatch in minibatches:
                    step(minibatch)
            step.end()

    return Competitor(run, lambda: totals.read().elbo)
