"""What all plots have in common: they refuse other objects, and need matplotlib only when they are called."""

import inspect
import subprocess
import sys

import pytest
import torch
from matplotlib import pyplot

import amortvi as avi
from amortvi import plots
from amortvi.errors import MissingDependencyError, OptionError
from amortvi.posterior import Posterior

EXPECTED = {
    "plot_aggregate_posterior": "usage must be the LatentUsage that amortvi.latent_usage returns",
    "plot_comparison": "table must be the result of amortvi.compare",
    "plot_correlation": r"posterior must be the Posterior that vi.posterior\(x\) returns",
    "plot_coverage": "calibration must be the Calibration that amortvi.calibrate returns",
    "plot_gaps": "gaps must be a result of amortvi.gaps",
    "plot_k_hat": "evidence must be the Evidence that amortvi.evidence returns",
    "plot_latent_map": r"posterior must be the Posterior that vi.posterior\(x\) returns",
    "plot_latent_usage": "usage must be the LatentUsage that amortvi.latent_usage returns",
    "plot_predictive_check": "check must be the PredictiveCheck that amortvi.predictive_check returns",
    "plot_rank_histogram": "calibration must be the Calibration that amortvi.calibrate returns",
    "plot_ranks": "calibration must be the Calibration that amortvi.calibrate returns",
    "plot_reference": "reference must be the Reference that amortvi.reference returns",
}
OTHERS = {"plot_history", "plot_images", "plot_reconstructions"}
"""Plots of an estimator or of arrays."""


def test_every_plot_is_listed() -> None:
    assert EXPECTED.keys() | OTHERS == set(plots.__all__)


@pytest.mark.parametrize("name", EXPECTED)
def test_other_objects_are_refused(name: str, vi: avi.AmortizedVI) -> None:
    plot = getattr(plots, name)
    required = [p for p in inspect.signature(plot).parameters.values() if p.default is p.empty]
    with pytest.raises(OptionError, match=f"{EXPECTED[name]}.* AmortizedVI"):
        plot(*[vi] * len(required))
    assert not pyplot.get_fignums()


def test_without_matplotlib_calls_name_the_extra(
    posterior: Posterior, fits: avi.FamilyFits, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [*sys.modules]:
        if module.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, module, None)  # marks a module that cannot be imported
    for plot, result in (
        (plots.plot_correlation, posterior),
        (plots.plot_latent_map, posterior),
        (plots.plot_history, fits),
        (plots.plot_images, torch.rand(2, 4)),
    ):
        with pytest.raises(MissingDependencyError, match=r"plotting needs matplotlib, .* 'amortvi\[plots\]'"):
            plot(result)


def test_import_does_not_load_matplotlib() -> None:
    program = "import sys, amortvi.plots; sys.exit(any(m.partition('.')[0] == 'matplotlib' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
