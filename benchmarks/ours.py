"""amortvi: the whole `AmortizedVI.fit`, and its compiled step alone."""

from __future__ import annotations

import contextlib
import os
from typing import Any

import torch
from torch import nn

import amortvi as avi
from amortvi.training import CompileChoice
from benchmarks.harness import Competitor
from benchmarks.problems import Problem

__all__ = ["CompileChoice", "bare_compiled_steps", "estimator", "fit", "fits"]


def estimator(problem: Problem, family: str = "diagonal") -> avi.AmortizedVI:
    """Return an estimator with the problem's architecture, not fitted yet."""
    decoder = nn.Sequential(
        nn.Linear(problem.latents, problem.hidden), nn.ReLU(), nn.Linear(problem.hidden, problem.features)
    )
    model = avi.models.VAE(decoder, problem.latents)
    return avi.AmortizedVI(model, avi.encoders.MLP(problem.features, [problem.hidden]), family)


def fit(vi: avi.AmortizedVI, problem: Problem, *, epochs: int, compile: CompileChoice, **options: Any) -> None:
    """Call `fit` with all that it does: checks of the data, shuffling, history and, if asked for, the progress bar."""
    options = {"progress": False, "seed": 0} | options
    vi.fit(problem.x, epochs=epochs, batch_size=problem.batch_size, lr=problem.lr, compile=compile, **options)


def fits(
    problem: Problem,
    epochs: int,
    *,
    family: str = "diagonal",
    compile: CompileChoice = True,
    progress: bool = False,
    **options: Any,
) -> Competitor:
    """Return the competitor that fits for ``epochs``, and at each further run goes on.

    Args:
        problem: what is fitted.
        epochs: of one run.
        family: of the posterior.
        compile: as in `AmortizedVI.fit`.
        progress: show the progress bar, to nobody.
        options: what else `fit` is to be given.
    """
    vi = estimator(problem, family)

    def run() -> None:
        with open(os.devnull, "w") as nobody, contextlib.redirect_stderr(nobody):
            fit(vi, problem, epochs=epochs, compile=compile, progress=progress, **options)

    return Competitor(run, lambda: float(vi.history["elbo"].iloc[-1]))


def bare_compiled_steps(problem: Problem, epochs: int) -> Competitor:
    """Return the competitor that takes the steps of ``epochs`` with the compiled step of a fit, and does nothing else.

    The minibatches are chosen once, beforehand; the step gathers their rows, as it does in a fit. There is no shuffling,
    no history, no seed, no copy of the parameters to go back to.
    """
    from amortvi.training.steps import CompiledStep, State, Totals, Update
    from amortvi.data import Batch, Minibatch

    vi = estimator(problem)
    fit(vi, problem, epochs=1, compile=False)  # sets the guide up
    model, parameters = vi._generative, vi._trainer.parameters()
    totals = Totals(torch.device("cpu"))
    adam = torch.optim.Adam(parameters, lr=problem.lr)
    step = CompiledStep(
        Update(
            model,
            vi.guide,
            State(model, vi.guide),
            avi.objectives.ELBO(),
            len(problem.x),
            totals,
            adam,
            parameters,
            gradient_clip=None,
        )
    )
    data = Batch((problem.x,))
    minibatches = [Minibatch(data, rows) for rows in torch.randperm(len(problem.x)).split(problem.batch_size)]

    def run() -> None:
        with model.own_parameters():
            step.begin()
            for _ in range(epochs):
                totals.clear()
                for minibatch in minibatches:
                    step(minibatch)
            step.end()

    return Competitor(run, lambda: totals.read().elbo)
