"""Tune a posterior with Optuna: the width of the encoder, the learning rate and the family, with pruning.

A generative model of the digits is trained once and frozen, so that all trials approximate the same exact posteriors: a
difference of validation ELBOs is then a difference of `KL(q || p)`. (Between models that are trained with each trial, compare
the evidence instead.) Each trial reports its validation ELBO after every epoch, and one that is below the median of the earlier
trials at the same epoch is pruned: the callback raises `optuna.TrialPruned`, which ends the fit after that epoch. Prints the
trials, and the best one beside the default options on the test digits. Takes about half a minute.

    python examples/optuna_pruning.py [--trials 12] [--epochs 40]
"""

from __future__ import annotations

import argparse
from typing import Any

import optuna
import torch
from torch import nn

import amortvi as avi

LATENTS = 6
DEFAULTS = {"width": 64, "lr": 5e-3, "family": "diagonal"}


class Pruning(avi.callbacks.Callback):
    """Reports the validation ELBO of each epoch to a trial, and ends the fit if Optuna prunes the trial."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def on_epoch_end(self, fit: avi.callbacks.RunningFit) -> None:
        self.trial.report(fit.history[-1].validation_elbo, fit.epoch)
        if self.trial.should_prune():
            # `fit.stop()` would end the fit without an error; Optuna counts a trial as pruned if it is told so.
            raise optuna.TrialPruned(f"pruned in epoch {fit.epoch}")


def main() -> None:
    """Train a model, tune its posterior, and evaluate the best trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--epochs", type=int, default=40)
    arguments = parser.parse_args()
    epochs: int = arguments.epochs

    digits = avi.datasets.digits()
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(LATENTS, 64), nn.Tanh(), nn.Linear(64, 64))
    joint = avi.AmortizedVI(avi.models.VAE(decoder, LATENTS), avi.encoders.MLP(64), "full")
    joint.fit(digits.x_train, epochs=epochs, seed=0, progress=False)

    def fit(options: dict[str, Any], *callbacks: avi.callbacks.Callback) -> avi.AmortizedVI:
        torch.manual_seed(0)
        encoder = avi.encoders.MLP(64, [options["width"]])
        vi = avi.AmortizedVI(joint.model, encoder, options["family"], freeze_model=True)
        return vi.fit(
            digits.x_train,
            validation_data=0.2,
            epochs=epochs,
            lr=options["lr"],
            callbacks=callbacks,
            seed=0,
            progress=False,
        )

    def objective(trial: optuna.Trial) -> float:
        options = {
            "width": trial.suggest_categorical("width", [16, 64, 256]),
            "lr": trial.suggest_float("lr", 1e-4, 5e-2, log=True),
            "family": trial.suggest_categorical("family", ["diagonal", "low_rank", "full"]),
        }
        return float(fit(options, Pruning(trial)).history["validation_elbo"].iloc[-1])

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=epochs // 4)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0), pruner=pruner)
    study.optimize(objective, n_trials=arguments.trials)

    for trial in study.trials:
        last = max(trial.intermediate_values)
        shown = ", ".join(f"{name} {value:.3g}" if name == "lr" else f"{value}" for name, value in trial.params.items())
        elbo = trial.intermediate_values[last]
        print(f"{trial.number:>3}  {trial.state.name.lower():<9} epoch {last:>3}  ELBO {elbo:7.2f}  {shown}")
    for name, options in (("defaults", DEFAULTS), ("best", study.best_params)):
        elbo = fit(options).evaluate(digits.x_test, seed=0)["elbo"].mean()
        print(f"{name}: test ELBO {elbo:.2f} nats per digit, {options}")


if __name__ == "__main__":
    main()
