"""plot_gaps draws the means of the results of `amortvi.gaps`, plot_k_hat the k-hats of an `Evidence`."""

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from scipy.stats import norm

from amortvi.diagnostics.evidence import Evidence
from amortvi.diagnostics.gaps.gaps import Gaps
from amortvi.errors import OptionError
from amortvi.plots import plot_gaps, plot_k_hat
from amortvi.plots.palette import PALETTE
from tests.plots.conftest import legend_texts


def evidence(values: list[float], k_hats: list[float]) -> Evidence:
    """Return an evidence whose estimates and bounds are all ``values``."""
    value, k_hat = torch.tensor(values, dtype=torch.float64), torch.tensor(k_hats, dtype=torch.float64)
    return Evidence(value, value, value, value, value, k_hat, value, draws=1000)


def gaps(evidences: list[float], refined: list[float], amortized: list[float]) -> Gaps:
    """Return the gaps of three observations, the last of which is unreliable."""
    bounds = [evidence(values, [0.1, 0.1, 9.0]) for values in (amortized, refined, evidences)]
    return Gaps("diagonal", bounds[0], {"diagonal": bounds[1]}, bounds[2], 0.1)


FOUND = {
    "first": gaps([-1.0, -2.0, -9.0], [-1.5, -3.0, -9.5], [-1.75, -5.0, -99.0]),
    "second": gaps([-1.0, -2.0, -9.0], [-0.5, -2.0, -9.0], [-1.0, -4.0, -99.0]),  # Monte Carlo error: a negative gap
}


def test_bars_are_the_means_of_the_reliable_observations(ax: Axes) -> None:
    assert plot_gaps(FOUND, ax=ax) is ax
    approximation, amortization, _ = ax.containers
    np.testing.assert_allclose([bar.get_width() for bar in approximation], [0.75, -0.25])
    np.testing.assert_allclose([bar.get_width() for bar in amortization], [1.125, 1.25])
    np.testing.assert_allclose([bar.get_x() for bar in amortization], [0.75, 0])
    assert [label.get_text() for label in ax.get_yticklabels()] == list(FOUND)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert legend_texts(ax) == ["family", "encoder"]
    assert "nats per observation" in ax.get_xlabel()
    assert ax.get_title() == "Inference gap by cause\nmeans, 95% intervals; 2 of 3 reliable"
    assert [text.get_text() for text in ax.texts] == ["1.88", "1.00"]  # the sums


def test_the_intervals_have_the_level_of_the_title(ax: Axes) -> None:
    plot_gaps(FOUND, ax=ax)
    (lines,) = ax.containers[2].lines[2]
    ends = np.array([segment[:, 0] for segment in lines.get_segments()])
    expected = [each.summary().loc["inference_gap"] for each in FOUND.values()]
    np.testing.assert_allclose(ends.mean(axis=1), [row["mean"] for row in expected])
    np.testing.assert_allclose(np.ptp(ends, axis=1) / 2, [norm.ppf(0.975) * row["se"] for row in expected], rtol=1e-3)


def test_without_reliable_observations_the_gaps_are_unknown(ax: Axes) -> None:
    bounds = evidence([-1.0, -2.0], [9.0, 9.0])
    plot_gaps({"unreliable": Gaps("diagonal", bounds, {"diagonal": bounds}, bounds, 0.1), **FOUND}, ax=ax)
    assert [text.get_text() for text in ax.texts] == ["unknown", "1.88", "1.00"]
    assert "unreliable left out" in ax.get_title()
    ax.figure.canvas.draw()


def test_a_single_result_is_labeled_with_its_family(ax: Axes) -> None:
    plot_gaps(FOUND["first"], ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["diagonal"]
    for wrong in ({}, {"full": 1}):
        with pytest.raises(OptionError, match=r"gaps must be .*amortvi\.gaps"):
            plot_gaps(wrong, ax=ax)


K_HAT = [0.1, 0.9, -0.2, 0.6, 0.8, 0.3]


def points(ax: Axes) -> dict[tuple[float, ...], np.ndarray]:
    """Return the points of each color."""
    found: dict[tuple[float, ...], list[np.ndarray]] = {}
    for part in ax.collections:
        found.setdefault(tuple(part.get_facecolor()[0]), []).append(part.get_offsets().data)
    return {shade: np.concatenate(parts) for shade, parts in found.items()}


def test_points_and_lines(ax: Axes) -> None:
    assert plot_k_hat(evidence([0.0] * 6, K_HAT), ax=ax) is ax
    found = points(ax)
    np.testing.assert_allclose(found[to_rgba(PALETTE[5])], [(0, 0.1), (2, -0.2), (3, 0.6), (5, 0.3)])
    np.testing.assert_allclose(found[to_rgba(PALETTE[1])], [(1, 0.9), (4, 0.8)])
    threshold = evidence([0.0] * 6, K_HAT).threshold
    assert sorted(line.get_ydata()[0] for line in ax.lines) == pytest.approx([0.5, threshold, 0.7, 1.0])
    assert [text.get_text() for text in ax.texts] == ["threshold\n0.67"]
    assert ax.get_title().endswith("6 observations, 1000 draws each")
    assert legend_texts(ax) == ["reliable (4)", "unreliable (2)"]
    assert set(np.round(ax.get_yticks(), 2)) >= {0, 0.5, 0.7, 1}


def test_sorted_by_k_hat(ax: Axes) -> None:
    plot_k_hat(evidence([0.0] * 6, K_HAT), sort=True, ax=ax)
    together = np.concatenate(list(points(ax).values()))
    np.testing.assert_allclose(together[together[:, 0].argsort()], list(enumerate(sorted(K_HAT))))


def test_extreme_k_hats_are_at_the_edge() -> None:
    ax = plot_k_hat(evidence([0.0] * 6, [0.1, torch.inf, -torch.inf, 0.6, 55.0, 0.3]))
    low, top = ax.get_ylim()
    assert top < 1.5
    together = np.concatenate(list(points(ax).values()))
    high = together[:, 1].max()
    assert 1 < high < top  # the legend is above
    expected = [(0, 0.1), (1, high), (2, low), (3, 0.6), (4, high), (5, 0.3)]
    np.testing.assert_allclose(together[together[:, 0].argsort()], expected)
