"""What does each default option of a fit buy?

Every recipe is the default one with a single option changed, or today's predecessor of all of them. Each is fitted to
twelve problems with every Gaussian family, five seeds, and three numbers of steps, and without a number of steps. The
table shows by how many nats per observation the training ELBO (and, for trained models, the held-out evidence) falls
short of the best that any recipe has reached for the same problem and family, averaged over seeds.

All of it takes a night. ``--problems counts,growth --seeds 1 --steps 500`` measures a part.

    python -m benchmarks.recipes [--problems NAMES] [--recipes NAMES] [--families NAMES] [--seeds 5] [--steps 500,2000]
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import amortvi as avi
from benchmarks.recipe_problems import PROBLEMS, RecipeProblem

RECIPES: dict[str, dict[str, Any]] = {
    "default": {},
    "no standardization": {"standardize": False},
    "constant rate": {"lr_schedule": "constant"},
    "with the score": {"objective": avi.objectives.ELBO(gradient="reparameterized")},
    "rate 1e-3": {"lr": 1e-3},
    "rate 2e-3": {"lr": 2e-3},
    "rate 1e-2": {"lr": 1e-2},
    "clipped at 10": {"gradient_clip": 10.0},
    "slow off-diagonals": {"off_diagonal_rate": 0.3},
    "before": {
        "standardize": False,
        "lr_schedule": "constant",
        "objective": avi.objectives.ELBO(gradient="reparameterized"),
        "lr": 1e-3,
        "off_diagonal_rate": 0.3,
    },
}
FAMILIES = {"diagonal": avi.families.Diagonal, "low_rank": avi.families.LowRank, "full": avi.families.FullCovariance}
UNTIL_CONVERGED = 0
"""The number of steps that stands for a fit that ends by itself."""


def main() -> None:
    """Fit everything and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, known in (("problems", PROBLEMS), ("recipes", RECIPES), ("families", FAMILIES)):
        parser.add_argument(f"--{name}", default=",".join(known), help=f"default: {', '.join(known)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", default=f"500,2000,10000,{UNTIL_CONVERGED}", help="0: until converged")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/recipes.csv"))
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", avi.errors.AmortviWarning)
    rows = []
    for problem, family in itertools.product(chosen.problems.split(","), chosen.families.split(",")):
        made = PROBLEMS[problem]()
        for recipe, steps, seed in itertools.product(
            chosen.recipes.split(","), map(int, chosen.steps.split(",")), range(chosen.seeds)
        ):
            found = fitted(made, family, RECIPES[recipe], steps, seed)
            rows.append({"problem": problem, "family": family, "recipe": recipe, "steps": steps, "seed": seed, **found})
            print(rows[-1], flush=True)
    results = pd.DataFrame(rows)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    results.to_csv(chosen.out, index=False)
    print(losses(results).to_string(float_format="{:.3f}".format))


def fitted(problem: RecipeProblem, family: str, recipe: dict[str, Any], steps: int, seed: int) -> dict[str, Any]:
    """Fit once, and return the bounds on training and held-out data, how the fit ended, and its time."""
    options = {"seed": seed, "progress": False} | recipe
    rate = options.pop("off_diagonal_rate", None)
    chosen = FAMILIES[family]() if rate is None or family == "diagonal" else FAMILIES[family](off_diagonal_rate=rate)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vi = avi.AmortizedVI(problem.model(), problem.encoder(), chosen, freeze_model=problem.is_fixed)
    observations = len(problem.x[0]) if isinstance(problem.x, tuple) else len(problem.x)
    epochs = max(1, round(steps / math.ceil(observations / 128))) if steps else None
    start = time.perf_counter()
    try:
        vi.fit(problem.x, epochs=epochs, **options)
    except avi.errors.NonFiniteError:
        return {"elbo": -math.inf, "held_out": -math.inf, "status": "failed", "epochs": 0, "seconds": 0.0}
    seconds = time.perf_counter() - start
    train = vi.evaluate(problem.x, particles=50, seed=0)["elbo"].mean()
    # A fixed model has the same evidence whatever the posterior.
    column, draws = ("elbo", 50) if problem.is_fixed else ("iwae", 500)
    held_out = vi.evaluate(problem.held_out, particles=draws, seed=0)[column].mean()
    return {"elbo": train, "held_out": held_out, "status": vi.status, "epochs": len(vi.history), "seconds": seconds}


def losses(results: pd.DataFrame) -> pd.DataFrame:
    """Return by how much each recipe falls short of the best result for a problem and family, averaged over seeds."""
    best = results.groupby(["problem", "family"])[["elbo", "held_out"]].transform("max")
    short = results.assign(elbo=best["elbo"] - results["elbo"], held_out=best["held_out"] - results["held_out"])
    return short.pivot_table(index=["problem", "family", "recipe"], columns="steps", values=["elbo", "held_out"])


if __name__ == "__main__":
    main()
