"""plot_gaps draws the means that amortvi.gaps found."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes
from torch import Tensor

import amortvi as avi
from amortvi.errors import OptionError
from amortvi.plots import plot_gaps


@pytest.fixture(scope="module")
def found(fits: avi.FamilyFits, x: Tensor) -> dict[str, avi.Gaps]:
    return {family: avi.gaps(fits[family], x[:20], draws=100) for family in fits}


def test_bars_are_the_means(found: dict[str, avi.Gaps], ax: Axes) -> None:
    assert plot_gaps(found, ax=ax) is ax
    first, second, _ = ax.containers
    approximation = [float(gaps.approximation[gaps.trusted].mean()) for gaps in found.values()]
    amortization = [float(gaps.amortization[gaps.trusted].mean()) for gaps in found.values()]
    np.testing.assert_allclose([bar.get_width() for bar in first], approximation)
    np.testing.assert_allclose([bar.get_width() for bar in second], amortization)
    np.testing.assert_allclose([bar.get_x() for bar in second], np.maximum(approximation, 0))
    assert [label.get_text() for label in ax.get_yticklabels()] == list(found)
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "approximation gap (family)",
        "amortization gap (encoder)",
    ]
    assert "nats per observation" in ax.get_xlabel()


def test_one_is_enough(found: dict[str, avi.Gaps], ax: Axes) -> None:
    plot_gaps(found["full"], ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == [found["full"].family]


@pytest.mark.parametrize("wrong", [{}, None, {"full": 1}, "gaps"])
def test_other_things_are_refused(wrong, ax: Axes) -> None:
    with pytest.raises(OptionError, match=r"gaps must be what amortvi\.gaps returns"):
        plot_gaps(wrong, ax=ax)
