"""What does each default option of a fit buy?

Every recipe is the default one with a single option changed, or today's predecessor of all of them. Each is fitted to
twelve problems with every Gaussian family, five seeds, and three numbers of steps, and without a number of steps. The
table shows by how many nats per observation the training ELBO (and, for trained models, the held-out evidence) falls
short of the best that any recipe has reached for the same problem and family, averaged over seeds.

A second table shows by how much each richer family is better than the diagonal one with the default recipe.

All of it takes a night. ``--problems counts,growth --seeds 1 --steps 500`` measures a part. Each fit is added to a file, and
a fit that is in the file is not repeated, so that the table may be filled in parts.

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
    "no clipping": {"gradient_clip": None},
    "usual averages of Adam": {"optimizer": torch.optim.Adam},
    "clipped at 1": {"gradient_clip": 1.0},
    "slow off-diagonals": {"off_diagonal_rate": 0.3},
    "before": {
        "standardize": False,
        "lr_schedule": "constant",
        "objective": avi.objectives.ELBO(gradient="reparameterized"),
        "lr": 1e-3,
        "gradient_clip": None,
        "optimizer": torch.optim.Adam,
        "off_diagonal_rate": 0.3,
    },
}
FAMILIES = {"diagonal": avi.families.Diagonal, "low_rank": avi.families.LowRank, "full": avi.families.FullCovariance}
KEYS = ["problem", "family", "recipe", "steps", "seed"]
FOUND = ["elbo", "held_out", "status", "epochs", "seconds"]
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
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    done = pd.read_csv(chosen.out) if chosen.out.exists() else pd.DataFrame(columns=[*KEYS, *FOUND])
    known = set(done[KEYS].itertuples(index=False, name=None))
    for problem, family in itertools.product(chosen.problems.split(","), chosen.families.split(",")):
        made = PROBLEMS[problem]()
        for recipe, steps, seed in itertools.product(
            chosen.recipes.split(","), map(int, chosen.steps.split(",")), range(chosen.seeds)
        ):
            key = problem, family, recipe, steps, seed
            if key not in known:
                row = pd.DataFrame([[*key, *fitted(made, family, RECIPES[recipe], steps, seed)]], columns=done.columns)
                row.to_csv(chosen.out, mode="a", header=not chosen.out.exists(), index=False)
                print(row.to_string(index=False, header=False), flush=True)
    results = pd.read_csv(chosen.out)
    for table in (losses(results), differences(results)):
        print(table.to_string(float_format="{:.3f}".format), end="\n\n")


def fitted(problem: RecipeProblem, family: str, recipe: dict[str, Any], steps: int, seed: int) -> tuple[Any, ...]:
    """Fit once, and return `FOUND`: bounds on training and held-out data, how the fit ended, its length and time."""
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
        return -math.inf, -math.inf, "failed", 0, 0.0
    seconds = time.perf_counter() - start
    train = vi.evaluate(problem.x, particles=50, seed=0)["elbo"].mean()
    # A fixed model has the same evidence whatever the posterior.
    column, draws = ("elbo", 50) if problem.is_fixed else ("iwae", 500)
    held_out = vi.evaluate(problem.held_out, particles=draws, seed=0)[column].mean()
    return train, held_out, vi.status, len(vi.history), seconds


def losses(results: pd.DataFrame) -> pd.DataFrame:
    """Return by how much each recipe falls short of the best result for a problem and family, averaged over seeds."""
    best = results.groupby(["problem", "family"])[["elbo", "held_out"]].transform("max")
    short = results.assign(elbo=best["elbo"] - results["elbo"], held_out=best["held_out"] - results["held_out"])
    return short.pivot_table(index=["problem", "family", "recipe"], columns="steps", values=["elbo", "held_out"])


def differences(results: pd.DataFrame) -> pd.DataFrame:
    """Return by how much each family is better than the diagonal one with the default recipe, paired by seed, and the SE."""
    paired = results[results["recipe"] == "default"].set_index(["problem", "steps", "seed", "family"])
    gains = paired[["elbo", "held_out"]].unstack("family")
    columns = {}
    for bound, family in itertools.product(("elbo", "held_out"), ("low_rank", "full")):
        if {(bound, family), (bound, "diagonal")} <= set(gains.columns):
            gain = (gains[bound, family] - gains[bound, "diagonal"]).groupby(["problem", "steps"])
            columns[bound, family, "mean"], columns[bound, family, "se"] = gain.mean(), gain.sem()
    return pd.DataFrame(columns)


if __name__ == "__main__":
    main()
