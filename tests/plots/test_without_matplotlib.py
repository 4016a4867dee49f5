"""amortvi.plots is importable without matplotlib, and says what to install when it is used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest
import torch

import amortvi as avi
from amortvi import plots
from amortvi.errors import MissingDependencyError
from amortvi.posterior.posterior import Posterior

TABLE = pd.DataFrame({"difference": [0.0], "difference_se": [0.0]}, index=["full"])


def _usage(fits: avi.FamilyFits) -> avi.diagnostics.LatentUsage:
    return avi.latent_usage(fits["full"], torch.randn(5, 4), points=10)


def _reference(posterior: Posterior) -> avi.Reference:
    vector = torch.randn(2, 10, len(posterior), posterior.latents.dim)
    ones = torch.ones(len(posterior))
    return avi.Reference(vector, vector[..., 0] > torch.inf, ones, ones, posterior.prototype, None)


CALLS: dict[str, Callable[[avi.FamilyFits, Posterior], Any]] = {
    "plot_comparison": lambda fits, posterior: plots.plot_comparison(TABLE),
    "plot_correlation": lambda fits, posterior: plots.plot_correlation(posterior),
    "plot_coverage": lambda fits, posterior: plots.plot_coverage(avi.calibrate(fits["full"], 20, 10, seed=0)),
    "plot_gaps": lambda fits, posterior: plots.plot_gaps(avi.gaps(fits["full"], torch.randn(5, 4), draws=30)),
    "plot_history": lambda fits, posterior: plots.plot_history(fits),
    "plot_images": lambda fits, posterior: plots.plot_images(torch.rand(2, 4)),
    "plot_k_hat": lambda fits, posterior: plots.plot_k_hat(avi.evidence(fits["full"], torch.randn(5, 4), draws=30)),
    "plot_aggregate_posterior": lambda fits, posterior: plots.plot_aggregate_posterior(_usage(fits)),
    "plot_latent_usage": lambda fits, posterior: plots.plot_latent_usage(_usage(fits)),
    "plot_predictive_check": lambda fits, posterior: plots.plot_predictive_check(
        avi.predictive_check(fits["full"], torch.randn(5, 4), draws=2)
    ),
    "plot_latent_map": lambda fits, posterior: plots.plot_latent_map(posterior),
    "plot_rank_histogram": lambda fits, posterior: plots.plot_rank_histogram(
        avi.calibrate(fits["full"], 20, 10, seed=0), "z[0]"
    ),
    "plot_ranks": lambda fits, posterior: plots.plot_ranks(avi.calibrate(fits["full"], 20, 10, seed=0)),
    "plot_reconstructions": lambda fits, posterior: plots.plot_reconstructions(torch.rand(2, 4), torch.rand(2, 4)),
    "plot_reference": lambda fits, posterior: plots.plot_reference(_reference(posterior), posterior),
}


def test_every_plot_is_here() -> None:
    assert sorted(CALLS) == plots.__all__


@pytest.mark.parametrize("name", sorted(CALLS))
def test_calls_name_the_extra(
    name: str, fits: avi.FamilyFits, posterior: Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [*sys.modules]:
        if module.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, module, None)  # what Python keeps for a module that cannot be imported
    with pytest.raises(MissingDependencyError, match=r"plotting needs matplotlib, .* 'amortvi\[plots\]'"):
        CALLS[name](fits, posterior)


def test_import_neither_needs_nor_loads_matplotlib() -> None:
    program = "import sys, amortvi.plots; sys.exit(any(m.partition('.')[0] == 'matplotlib' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
