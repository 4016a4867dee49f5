"""What all plots have in common: they refuse other objects, and need matplotlib only when they are called."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from torch import Tensor

import amortvi as avi
from amortvi import plots
from amortvi.errors import MissingDependencyError, OptionError
from amortvi.posterior import Posterior

EXPECTED = {
    "plot_aggregate_posterior": "usage must be the LatentUsage that amortvi.latent_usage returns",
    "plot_comparison": "table must be the result of amortvi.compare; this",
    "plot_correlation": r"posterior must be the Posterior that vi.posterior\(x\) returns",
    "plot_coverage": "calibration must be the Calibration that amortvi.calibrate returns",
    "plot_gaps": "gaps must be a result of amortvi.gaps or a fitted estimator",
    "plot_k_hat": "evidence must be the Evidence that amortvi.evidence returns",
    "plot_latents": r"posterior must be the Posterior that vi.posterior\(x\) returns",
    "plot_latent_usage": "usage must be the LatentUsage that amortvi.latent_usage returns",
    "plot_predictive_check": "check must be the PredictiveCheck that amortvi.predictive_check returns",
    "plot_rank_histogram": "calibration must be the Calibration that amortvi.calibrate returns",
    "plot_ranks": "calibration must be the Calibration that amortvi.calibrate returns",
    "plot_reference": "reference must be the Reference that amortvi.reference returns",
}
OTHERS = {"plot_training", "plot_images", "plot_reconstructions"}
"""Plots of an estimator or of arrays."""


def test_every_plot_is_listed() -> None:
    assert EXPECTED.keys() | OTHERS == set(plots.__all__)


@pytest.mark.parametrize("name", EXPECTED)
def test_other_objects_are_refused(name: str) -> None:
    plot = getattr(plots, name)
    required = [
        p for p in inspect.signature(plot).parameters.values() if p.default is p.empty and p.kind != p.VAR_KEYWORD
    ]
    with pytest.raises(OptionError, match=f"{EXPECTED[name]}.* str"):
        plot(*["other"] * len(required))
    assert not pyplot.get_fignums()


FROM_FIT: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "plot_aggregate_posterior": (avi.latent_usage, {"draws": 10, "seed": 0}),
    "plot_correlation": (avi.AmortizedVI.posterior, {}),
    "plot_coverage": (avi.calibrate, {"simulations": 20, "draws": 20, "seed": 0}),
    "plot_gaps": (avi.gaps, {"draws": 50, "simulations": 0}),
    "plot_k_hat": (avi.evidence, {"draws": 50, "simulations": 0, "seed": 0}),
    "plot_latent_usage": (avi.latent_usage, {"draws": 10, "seed": 0}),
    "plot_latents": (avi.AmortizedVI.posterior, {}),
    "plot_predictive_check": (avi.predictive_check, {"draws": 20, "seed": 0}),
    "plot_rank_histogram": (avi.calibrate, {"simulations": 20, "draws": 20, "seed": 0}),
    "plot_ranks": (avi.calibrate, {"simulations": 20, "draws": 20, "seed": 0}),
}
"""How the result of each plot is computed from an estimator and observations, with some options."""


@pytest.mark.parametrize("name", FROM_FIT)
def test_an_estimator_and_observations_give_the_figure_of_their_result(
    name: str, vi: avi.AmortizedVI, x: Tensor
) -> None:
    plot, (compute, options) = getattr(plots, name), FROM_FIT[name]
    x = x[:20]
    result = compute(vi, x=x, **options)
    first, second = plot(vi, x, **options), plot(result)
    assert first.get_title() == second.get_title() != ""
    assert first.figure is not second.figure
    np.testing.assert_array_equal(pixels(first), pixels(second))
    for ignored in ({"x": x}, {"seed": 1}):
        with pytest.raises(
            (OptionError, TypeError), match=r"would be ignored|x is for an estimator|unexpected keyword"
        ):
            plot(result, **ignored)


def pixels(ax: Axes) -> Any:
    figure = ax.figure
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["plot_k_hat", "plot_gaps", "plot_ranks"])
def test_unknown_options_are_refused(name: str, vi: avi.AmortizedVI, x: Tensor) -> None:
    with pytest.raises(OptionError, match=r"drows is not an option\. Did you mean draws"):
        getattr(plots, name)(vi, x, drows=10)
    assert not pyplot.get_fignums()


def test_without_matplotlib_calls_name_the_extra(
    posterior: Posterior, fits: avi.FamilyFits, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in [*sys.modules]:
        if module.partition(".")[0] == "matplotlib":
            monkeypatch.setitem(sys.modules, module, None)  # marks a module that cannot be imported
    for plot, result in (
        (plots.plot_correlation, posterior),
        (plots.plot_latents, posterior),
        (plots.plot_training, fits),
        (plots.plot_images, torch.rand(2, 4)),
    ):
        with pytest.raises(MissingDependencyError, match=r"plotting needs matplotlib, .* 'amortvi\[plots\]'"):
            plot(result)


def test_import_does_not_load_matplotlib() -> None:
    program = "import sys, amortvi.plots; sys.exit(any(m.partition('.')[0] == 'matplotlib' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
