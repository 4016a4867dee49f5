"""plot_gaps draws the means of the results of `amortvi.gaps`."""

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from amortvi.diagnostics.evidence import Evidence
from amortvi.diagnostics.gaps.gaps import Gaps
from amortvi.errors import OptionError
from amortvi.plots import plot_gaps
from tests.plots.conftest import legend_texts


def evidence(values: list[float]) -> Evidence:
    """Return an evidence whose estimates and bounds are all ``values``; that of the last observation is unreliable."""
    value = torch.tensor(values, dtype=torch.float64)
    k_hats = torch.full_like(value, 0.1)
    k_hats[-1] = 9.0
    return Evidence(value, value, value, value, value, k_hats, value, draws=100)


def gaps(evidences: list[float], refined: list[float], amortized: list[float]) -> Gaps:
    return Gaps("diagonal", evidence(amortized), {"diagonal": evidence(refined)}, evidence(evidences), 0.1)


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
    assert legend_texts(ax) == ["approximation gap (family)", "amortization gap (encoder)"]
    assert "nats per observation" in ax.get_xlabel()


def test_a_single_result_is_labeled_with_its_family(ax: Axes) -> None:
    plot_gaps(FOUND["first"], ax=ax)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["diagonal"]
    for wrong in ({}, {"full": 1}):
        with pytest.raises(OptionError, match=r"gaps must be a result of amortvi\.gaps"):
            plot_gaps(wrong, ax=ax)
