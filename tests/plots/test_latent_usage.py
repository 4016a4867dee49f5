"""plot_latent_usage and plot_aggregate_posterior draw what amortvi.latent_usage returns."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from torch import Tensor

import amortvi as avi
from amortvi.diagnostics import LatentUsage
from amortvi.errors import OptionError
from amortvi.plots import plot_aggregate_posterior, plot_latent_usage
from amortvi.plots._palette import PALETTE
from amortvi.diagnostics.latents.usage import Usage


@pytest.fixture(scope="module")
def usage(fits: avi.FamilyFits, x: Tensor) -> LatentUsage:
    return avi.latent_usage(fits["full"], x, points=200, seed=0)


def changed(usage: LatentUsage, **fields: object) -> LatentUsage:
    return dataclasses.replace(usage, each=dataclasses.replace(usage.each, **fields))


def legend_texts(ax: Axes) -> list[str]:
    legend = ax.get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def tick_labels(ax: Axes) -> list[str]:
    return [label.get_text() for label in ax.get_xticklabels()]


def test_bars_are_the_kl_the_largest_first(usage: LatentUsage, ax: Axes) -> None:
    assert plot_latent_usage(usage, ax=ax) is ax
    heights = [bar.get_height() for bar in ax.patches]  # type: ignore[attr-defined]  # they are rectangles
    np.testing.assert_allclose(heights, usage.each.kl.sort(descending=True).values)
    order = usage.each.kl.argsort(descending=True)
    assert tick_labels(ax) == [usage.each.labels[i] for i in order]
    assert "nats" in ax.get_ylabel()


def test_colors_tell_which_are_active(usage: LatentUsage, ax: Axes) -> None:
    covariance = usage.each.mean_covariance.clone()
    covariance[0, 0] = 0.0
    plot_latent_usage(changed(usage, mean_covariance=covariance, kl=torch.tensor([3.0, 2.0, 1.0])), ax=ax)
    colors = [to_hex(bar.get_facecolor()).upper() for bar in ax.patches]
    assert colors[0] != PALETTE[0]
    assert colors[1:] == [PALETTE[0]] * 2
    assert legend_texts(ax) == ["active (2 of 3)", "not active"]


def test_dimensions_without_a_kl_are_said_to_be_left_out(usage: LatentUsage, ax: Axes) -> None:
    plot_latent_usage(changed(usage, kl=torch.tensor([math.nan, 2.0, math.nan])), ax=ax)
    assert len(ax.patches) == 1
    assert legend_texts(ax)[-1] == "2 with a joint prior: no KL of its own"


def test_no_dimension_has_a_kl(usage: LatentUsage, ax: Axes) -> None:
    plot_latent_usage(changed(usage, kl=torch.full((3,), math.nan)), ax=ax)
    assert len(ax.patches) == 0
    ax.figure.canvas.draw()


def test_aggregate_is_in_units_of_the_prior(usage: LatentUsage, ax: Axes) -> None:
    shifted = dataclasses.replace(usage, aggregate=3 + 2 * usage.aggregate, prior=3 + 2 * usage.prior)
    shifted = changed(shifted, prior_mean=torch.full((3,), 3.0), prior_variance=torch.full((3,), 4.0))
    assert plot_aggregate_posterior(shifted, ax=ax) is ax
    (medians,) = (line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(
        np.asarray(medians.get_ydata()), usage.aggregate.double().quantile(0.5, dim=0), rtol=1e-4
    )
    thin, thick = ax.collections
    for lines, low, high in ((thin, 0.025, 0.975), (thick, 0.25, 0.75)):
        ends = np.array(lines.get_segments())[:, :, 1]  # type: ignore[attr-defined]  # they are line collections
        levels = torch.tensor([low, high], dtype=torch.float64)
        np.testing.assert_allclose(ends, usage.aggregate.double().quantile(levels, dim=0).T, rtol=1e-4)
    assert tick_labels(ax) == list(usage.each.labels)


def test_many_dimensions_are_named_in_part(usage: LatentUsage, ax: Axes) -> None:
    count = 100
    many = dataclasses.replace(
        usage,
        each=Usage(
            labels=tuple(f"z[{i}]" for i in range(count)),
            mean_covariance=torch.eye(count),
            kl=torch.ones(count),
            mean=torch.zeros(count),
            variance=torch.ones(count),
            prior_mean=torch.zeros(count),
            prior_variance=torch.ones(count),
        ),
        aggregate=torch.randn(10, count),
        prior=torch.randn(10, count),
    )
    plot_aggregate_posterior(many, ax=ax)
    assert 10 < len(tick_labels(ax)) <= 30


@pytest.mark.parametrize("plot", [plot_latent_usage, plot_aggregate_posterior])
def test_wrong_usage(plot, fits: avi.FamilyFits) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(OptionError, match=r"usage must be what amortvi\.latent_usage returns; got AmortizedVI"):
        plot(fits["full"])
    assert not pyplot.get_fignums()
