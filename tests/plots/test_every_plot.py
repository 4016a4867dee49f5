"""amortvi.plots can be imported without matplotlib, and its functions name the extra that installs it."""

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
from amortvi.diagnostics.calibration import Calibration, calibrate
from amortvi.diagnostics.evidence import evidence
from amortvi.diagnostics.gaps.gaps import gaps
from amortvi.diagnostics.latents import LatentUsage, latent_usage
from amortvi.diagnostics.predictive import predictive_check
from amortvi.diagnostics.reference import Reference
from amortvi.errors import MissingDependencyError
from amortvi.posterior import Posterior

Fit = tuple[avi.AmortizedVI, Posterior]


def _calibration(fit: Fit) -> Calibration:
    return calibrate(fit[0], 20, 10, seed=0)


def _usage(fit: Fit) -> LatentUsage:
    return latent_usage(fit[0], posterior=fit[1], points=10)


def _reference(posterior: Posterior) -> Reference:
    vector, ones = torch.randn(2, 10, len(posterior), posterior.latents.dim), torch.ones(len(posterior))
    return Reference(vector, vector[..., 0] > torch.inf, ones, ones, posterior.model.structure, None)


TABLE = pd.DataFrame({"difference": [0.0], "difference_se": [0.0]}, index=["full"])
CALLS: dict[str, Callable[[Fit], Any]] = {
    "plot_aggregate_posterior": lambda fit: plots.plot_aggregate_posterior(_usage(fit)),
    "plot_comparison": lambda fit: plots.plot_comparison(TABLE),
    "plot_correlation": lambda fit: plots.plot_correlation(fit[1]),
    "plot_coverage": lambda fit: plots.plot_coverage(_calibration(fit)),
    "plot_gaps": lambda fit: plots.plot_gaps(gaps(fit[0], fit[1].observations, draws=30)),
    "plot_images": lambda fit: plots.plot_images(torch.rand(2, 4)),
    "plot_k_hat": lambda fit: plots.plot_k_hat(evidence(fit[0], posterior=fit[1], draws=30)),
    "plot_latent_map": lambda fit: plots.plot_latent_map(fit[1]),
    "plot_latent_usage": lambda fit: plots.plot_latent_usage(_usage(fit)),
    "plot_predictive_check": lambda fit: plots.plot_predictive_check(
        predictive_check(fit[0], posterior=fit[1], draws=2)
    ),
    "plot_rank_histogram": lambda fit: plots.plot_rank_histogram(_calibration(fit), "z[0]"),
    "plot_ranks": lambda fit: plots.plot_ranks(_calibration(fit)),
    "plot_reconstructions": lambda fit: plots.plot_reconstructions(torch.rand(2, 4), torch.rand(2, 4)),
    "plot_reference": lambda fit: plots.plot_reference(_reference(fit[1]), fit[1]),
}


@pytest.fixture
def no_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [*sys.modules]:
        if module.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, module, None)  # marks a module that cannot be imported


def test_every_plot_is_listed() -> None:
    assert sorted([*CALLS, "plot_history"]) == plots.__all__


@pytest.mark.usefixtures("no_matplotlib")
@pytest.mark.parametrize("name", sorted(CALLS))
def test_calls_name_the_extra(name: str, vi: avi.AmortizedVI, posterior: Posterior) -> None:
    with pytest.raises(MissingDependencyError, match=r"plotting needs matplotlib, .* 'amortvi\[plots\]'"):
        CALLS[name]((vi, posterior.select(slice(0, 5))))


@pytest.mark.usefixtures("no_matplotlib")
def test_the_history_names_the_extra(fits: avi.FamilyFits) -> None:
    with pytest.raises(MissingDependencyError, match="plotting needs matplotlib"):
        plots.plot_history(fits)


def test_import_does_not_load_matplotlib() -> None:
    program = "import sys, amortvi.plots; sys.exit(any(m.partition('.')[0] == 'matplotlib' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
