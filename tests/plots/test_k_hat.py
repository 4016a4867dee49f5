"""plot_k_hat draws the k-hats of an Evidence."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from torch import Tensor

import amortvi as avi
from amortvi.errors import OptionError
from amortvi.plots import plot_k_hat
from amortvi.plots._palette import color

K_HAT = [0.1, 0.9, -0.2, 0.6, 0.8, 0.3]


@pytest.fixture(scope="module")
def evidence(fits: avi.FamilyFits, x: Tensor) -> avi.Evidence:
    found = avi.evidence(fits["full"], x[:6], seed=0)
    return dataclasses.replace(found, k_hat=torch.tensor(K_HAT, dtype=torch.float64))


def points(ax: Axes) -> dict[tuple[float, ...], np.ndarray]:
    return {
        tuple(part.get_facecolors()[0]): part.get_offsets().data for part in ax.collections if len(part.get_offsets())
    }


def test_points_and_lines(evidence: avi.Evidence, ax: Axes) -> None:
    assert plot_k_hat(evidence, ax=ax) is ax
    found = points(ax)
    np.testing.assert_allclose(found[to_rgba(color(0))], [(0, 0.1), (2, -0.2), (3, 0.6), (5, 0.3)])
    np.testing.assert_allclose(found[to_rgba(color(1))], [(1, 0.9), (4, 0.8)])
    assert sorted(line.get_ydata()[0] for line in ax.lines) == pytest.approx([0.5, evidence.threshold, 0.7, 1.0])
    assert [text.get_text() for text in ax.texts] == ["0.67"]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["to be trusted (4)", "not to be trusted (2)"]
    assert set(np.round(ax.get_yticks(), 2)) >= {0, 0.5, 0.7, 1}


def test_sorted(evidence: avi.Evidence, ax: Axes) -> None:
    plot_k_hat(evidence, sort=True, ax=ax)
    together = np.concatenate(list(points(ax).values()))
    np.testing.assert_allclose(together[together[:, 0].argsort()], list(enumerate(sorted(K_HAT))))


def test_what_is_far_off_lies_on_the_edge(evidence: avi.Evidence, ax: Axes) -> None:
    k_hat = torch.tensor([0.1, torch.inf, -torch.inf, 0.6, 55.0, 0.3], dtype=torch.float64)
    plot_k_hat(dataclasses.replace(evidence, k_hat=k_hat), ax=ax)
    low, high = ax.get_ylim()
    assert high < 1.2
    drawn = np.concatenate([part.get_offsets().data for part in ax.collections])
    expected = [(0, 0.1), (1, high), (2, low), (3, 0.6), (4, high), (5, 0.3)]
    np.testing.assert_allclose(drawn[drawn[:, 0].argsort()], expected)


def test_a_new_figure(evidence: avi.Evidence) -> None:
    assert plot_k_hat(evidence).figure.axes


def test_no_evidence(fits: avi.FamilyFits, ax: Axes) -> None:
    with pytest.raises(OptionError, match=r"evidence must be what amortvi\.evidence returns; got AmortizedVI"):
        plot_k_hat(fits["full"], ax=ax)  # type: ignore[arg-type]
