"""Every example runs to its end; small sizes where it has options for them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = {
    "amortization_linear": ["--epochs", "2"],
    "any_pyro_model": [],
    "compare_families": [],
    "conv_mnist": ["--epochs", "1"],
    "distributed_fit": ["--epochs", "2", "--rows", "3000"],
    "exact_posterior": [],
    "gmm_vae": ["--epochs", "3", "--starts", "1"],
    "hierarchical_regression": ["--groups", "20", "--draws", "50"],
    "inference_gaps": ["--images", "20", "--epochs", "1"],
    "latent_map": ["--epochs", "5"],
    "masked_digits": ["--epochs", "5"],
    "measurement_sets": ["--sets", "500", "--epochs", "3"],
    "mnist_iwae": ["--stages", "1", "--test-images", "20", "--samples", "100"],
    "optuna_pruning": ["--trials", "5", "--epochs", "6"],
    "posterior_shapes": ["--problems", "simplex", "--families", "full"],
    "semi_supervised_digits": ["--images", "2000", "--labels", "100", "--draws", "1", "--epochs", "1", "1"],
    "state_space": ["--length", "20", "--series", "50"],
    "whose_fault": [],
}
NEEDS_MNIST = {"mnist_iwae", "semi_supervised_digits"}


def test_every_example_is_listed() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("[!_]*.py")} == set(EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, tmp_path: Path) -> None:
    if name in NEEDS_MNIST and "AMORTVI_DATA" not in os.environ:
        pytest.skip("MNIST is not here: set AMORTVI_DATA to the folder that contains it")
    command = [sys.executable, str(ROOT / "examples" / f"{name}.py"), *EXAMPLES[name]]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
