"""plot_correlation draws `Posterior.correlation`."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

import amortvi as avi
from amortvi.errors import OptionError
from amortvi.plots import plot_correlation
from amortvi.posterior import Posterior


def test_matrix_labels_values_and_colors(posterior: Posterior, ax: Axes) -> None:
    assert plot_correlation(posterior, observation=-1, ax=ax) is ax
    expected, image = posterior.correlation[-1].numpy(), ax.images[0]
    assert abs(expected[0, 1]) > 0.05  # not trivial
    np.testing.assert_allclose(np.asarray(image.get_array()), expected, atol=1e-6)
    for ticks in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in ticks] == posterior.latents.labels
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert texts == {(j, i): f"{expected[i, j]:z.2f}" for i in range(3) for j in range(3)}
    assert ax.get_title().endswith("observation 59")
    assert image.get_clim() == (-1, 1)
    negative, zero, positive = image.to_rgba(np.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(zero, np.array(to_rgba("white")), atol=0.04)
    assert positive[0] > positive[2]
    assert negative[2] > negative[0]


def test_many_coordinates_have_no_values_and_few_labels(ax: Axes) -> None:
    model = avi.models.LinearGaussian(torch.eye(60), scale=1.0)
    x = model.simulate(3, seed=0)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(60, []), "full").setup(x, seed=0)
    plot_correlation(vi.posterior(x), ax=ax)
    assert not ax.texts
    assert [label.get_text() for label in ax.get_yticklabels()] == [f"z[{i}]" for i in range(0, 60, 3)]
    np.testing.assert_array_equal(ax.get_yticks(), range(0, 60, 3))


@pytest.mark.parametrize("observation", [60, 10_000, -61, 1.5, "first", True])
def test_observations_out_of_range_are_refused(posterior: Posterior, observation: Any) -> None:
    with pytest.raises(OptionError, match=f"observation must be a position among the 60 .* got {observation!r}"):
        plot_correlation(posterior, observation=observation)
    assert not pyplot.get_fignums()
