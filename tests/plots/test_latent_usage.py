"""plot_latent_usage and plot_aggregate_posterior draw the result of `amortvi.latent_usage`."""

import math

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex

from amortvi.diagnostics.latents import CoordinateUsage, LatentUsage
from amortvi.plots import plot_aggregate_posterior, plot_latent_usage
from amortvi.plots.palette import PALETTE
from tests.plots.conftest import legend_texts


def usage(
    kl: list[float], variance: list[float] | None = None, prior_mean: float = 0, prior_sd: float = 1
) -> LatentUsage:
    """Return a result with these KLs and variances of the posterior mean (relative to the prior)."""
    count = len(kl)
    ones, draws = torch.ones(count), torch.randn(2, 200, count, generator=torch.Generator().manual_seed(0))
    coordinates = CoordinateUsage(
        labels=tuple(f"z[{i}]" for i in range(count)),
        mean_covariance=torch.tensor(variance or [1.0] * count).diag() * prior_sd**2,
        kl=torch.tensor(kl),
        mean=ones,
        variance=ones,
        prior_mean=prior_mean * ones,
        prior_variance=prior_sd**2 * ones,
    )
    return LatentUsage(coordinates, 100, ones, 1.0, 0.0, 1.0, 0.0, *(prior_mean + prior_sd * draws))


def tick_labels(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_xticklabels()]


def test_bars_are_the_kl_in_descending_order(ax: Axes) -> None:
    assert plot_latent_usage(usage([1.0, 3.0, 2.0], [1.0, 1.0, 0.0]), ax=ax) is ax
    assert [bar.get_height() for bar in ax.patches] == [3.0, 2.0, 1.0]
    assert tick_labels(ax) == ["z[1]", "z[2]", "z[0]"]
    assert [to_hex(bar.get_facecolor()).upper() == PALETTE[0] for bar in ax.patches] == [True, False, True]
    assert legend_texts(ax) == ["active", "not active"]
    assert "nats" in ax.get_ylabel()
    assert ax.get_title() == "Information in each latent\n2 of 3 active; 100 observations"


@pytest.mark.parametrize("kl", [[math.nan, 2.0, math.nan], [math.nan] * 3])
def test_coordinates_without_a_marginal_kl_are_counted(kl: list[float], ax: Axes) -> None:
    plot_latent_usage(usage(kl), ax=ax)
    unknown = sum(map(math.isnan, kl))
    assert len(ax.patches) == 3 - unknown
    assert legend_texts(ax)[-1] == f"KL unknown, joint prior ({unknown})"
    ax.figure.canvas.draw()


def test_the_aggregate_posterior_is_in_prior_standard_deviations(ax: Axes) -> None:
    standard = usage([1.0] * 3).aggregate.double()
    assert plot_aggregate_posterior(usage([1.0] * 3, prior_mean=3.0, prior_sd=2.0), ax=ax) is ax
    (medians,) = (line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(np.asarray(medians.get_ydata()), standard.quantile(0.5, dim=0), rtol=1e-4, atol=1e-6)
    thin, thick = ax.collections
    for lines, low, high in ((thin, 0.025, 0.975), (thick, 0.25, 0.75)):
        ends = np.array(lines.get_segments())[:, :, 1]
        levels = torch.tensor([low, high], dtype=torch.float64)
        np.testing.assert_allclose(ends, standard.quantile(levels, dim=0).T, rtol=1e-4)
    assert legend_texts(ax) == ["aggregate posterior", "prior"]
    assert "50% and 95% intervals; 100 observations" in ax.get_title()


def test_of_many_coordinates_some_are_labeled(ax: Axes) -> None:
    plot_aggregate_posterior(usage([1.0] * 100), ax=ax)
    assert 10 < len(tick_labels(ax)) <= 30
