"""plot_k_hat draws the k-hats of an `Evidence`."""

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from amortvi.diagnostics.evidence import Evidence
from amortvi.plots import plot_k_hat
from amortvi.plots._axes import color
from tests.plots.conftest import legend_texts

K_HAT = [0.1, 0.9, -0.2, 0.6, 0.8, 0.3]


def evidence(k_hat: list[float]) -> Evidence:
    zeros = torch.zeros(len(k_hat), dtype=torch.float64)
    return Evidence(
        zeros, zeros, zeros, zeros, zeros, torch.tensor(k_hat, dtype=torch.float64), zeros + 500, draws=1000
    )


def points(ax: Axes) -> dict[tuple[float, ...], np.ndarray]:
    """Return the points of each color."""
    found: dict[tuple[float, ...], list[np.ndarray]] = {}
    for part in ax.collections:
        found.setdefault(tuple(part.get_facecolor()[0]), []).append(part.get_offsets().data)
    return {shade: np.concatenate(parts) for shade, parts in found.items()}


def test_points_and_lines(ax: Axes) -> None:
    assert plot_k_hat(evidence(K_HAT), ax=ax) is ax
    found = points(ax)
    np.testing.assert_allclose(found[to_rgba(color(0))], [(0, 0.1), (2, -0.2), (3, 0.6), (5, 0.3)])
    np.testing.assert_allclose(found[to_rgba(color(1))], [(1, 0.9), (4, 0.8)])
    threshold = evidence(K_HAT).threshold
    assert sorted(line.get_ydata()[0] for line in ax.lines) == pytest.approx([0.5, threshold, 0.7, 1.0])
    assert [text.get_text() for text in ax.texts] == ["0.67"]
    assert legend_texts(ax) == ["reliable (4)", "unreliable (2)"]
    assert set(np.round(ax.get_yticks(), 2)) >= {0, 0.5, 0.7, 1}


def test_sorted_by_k_hat(ax: Axes) -> None:
    plot_k_hat(evidence(K_HAT), sort=True, ax=ax)
    together = np.concatenate(list(points(ax).values()))
    np.testing.assert_allclose(together[together[:, 0].argsort()], list(enumerate(sorted(K_HAT))))


def test_extreme_k_hats_are_at_the_edge() -> None:
    ax = plot_k_hat(evidence([0.1, torch.inf, -torch.inf, 0.6, 55.0, 0.3]))
    low, high = ax.get_ylim()
    assert high < 1.2
    together = np.concatenate(list(points(ax).values()))
    expected = [(0, 0.1), (1, high), (2, low), (3, 0.6), (4, high), (5, 0.3)]
    np.testing.assert_allclose(together[together[:, 0].argsort()], expected)
