"""plot_training draws `AmortizedVI.history`."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from torch import Tensor

import amortvi as avi
from amortvi.errors import NotFittedError, OptionError
from amortvi.plots import plot_training
from amortvi.plots.palette import family_color
from amortvi.plots.training import shown_range


def curves(ax: Axes) -> dict[tuple[float, ...], str]:
    """Return the color of each curve by its heights."""
    return {
        tuple(np.asarray(line.get_ydata())): to_hex(line.get_color()).upper()
        for line in ax.lines
        if line.get_linestyle() == "-"
    }


def texts(ax: Axes) -> list[str]:
    return sorted(text.get_text() for text in ax.texts)


def test_one_fit_has_a_curve_for_training_and_one_for_validation(fits: avi.FamilyFits, ax: Axes) -> None:
    vi = fits["full"]
    assert plot_training(vi, ax=ax) is ax
    assert set(curves(ax)) == {tuple(vi.history["elbo"]), tuple(vi.history["validation_elbo"])}
    assert texts(ax) == ["training", "validation"]
    assert ax.get_title() == "Training of full\n4 epochs, budget"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("epoch", "ELBO (nats per observation)")


def test_all_seeds_of_a_family_have_its_color(fits: avi.FamilyFits, ax: Axes) -> None:
    plot_training(fits, ax=ax)
    expected = {
        tuple(fit.vi.history["validation_elbo"]): family_color(family) for family in fits for fit in fits.of(family)
    }
    assert curves(ax) == expected
    assert texts(ax) == ["diagonal", "full"]
    assert ax.get_title() == "Validation ELBO of 4 fits"


def test_fits_in_a_dict_have_its_names_and_different_colors(fits: avi.FamilyFits) -> None:
    ax = plot_training({"full": fits["full"], "full, again": fits["diagonal"]})
    assert texts(ax) == ["full", "full, again"]
    assert len(set(curves(ax).values())) == 2
    assert [pyplot.figure(number) for number in pyplot.get_fignums()] == [ax.figure]


def test_long_curves_are_smoothed_over_the_single_epochs(ax: Axes) -> None:
    model = avi.models.LinearGaussian(torch.tensor([[1.0, 0.9], [0.0, 0.5]]), scale=0.5)
    x = model.simulate(20, seed=0)
    pair = {name: avi.AmortizedVI(model, avi.encoders.MLP(2, []), name) for name in ("diagonal", "full")}
    for vi in pair.values():
        vi.fit(x, validation_data=x, epochs=60, seed=0, progress=False)
    plot_training(pair, ax=ax)
    assert ax.get_title().endswith("thick: means of 3 epochs")
    found = [np.array(heights) for heights in curves(ax)]
    assert len(found) == 4
    for vi in pair.values():
        raw = vi.history["validation_elbo"].to_numpy()
        assert any(np.array_equal(each, raw) for each in found)
        means = np.convolve(raw, np.ones(3) / 3, "valid")
        assert any(np.allclose(each[1:-1], means) for each in found)


def test_epochs_without_validation_data_are_left_out(x: Tensor, ax: Axes) -> None:
    vi = avi.AmortizedVI(avi.models.LinearGaussian(torch.ones(4, 1), scale=1.0), avi.encoders.MLP(4, []))
    vi.fit(x.float(), validation_data=x.float(), epochs=3, seed=0, progress=False).fit(
        x.float(), epochs=2, progress=False
    )
    plot_training(vi, ax=ax)
    validation = vi.history["validation_elbo"]
    assert validation.isna().sum() == 2
    assert tuple(validation.dropna()) in curves(ax)
    assert texts(ax) == ["training", "validation"]
    ax.figure.canvas.draw()


def test_one_epoch_is_a_point(x: Tensor, ax: Axes) -> None:
    vi = avi.AmortizedVI(avi.models.LinearGaussian(torch.ones(4, 1), scale=1.0), avi.encoders.MLP(4, []))
    plot_training(vi.fit(x.float(), epochs=1, seed=0, progress=False), ax=ax)
    assert "o" in [line.get_marker() for line in ax.lines]  # a line of one epoch would be invisible
    assert texts(ax) == ["training"]
    ax.figure.canvas.draw()


EVEN = np.linspace(-20, -10, 11)


@pytest.mark.parametrize(
    ("curves", "low", "high"),
    [
        ([np.array([-5000.0, -40.0, -30.0, -28.0, -27.0, -26.5, -26.2, -26.1])], (-40, -32), (-26.1, -24)),
        ([EVEN, EVEN, EVEN, EVEN, np.full(11, -90.0)], (-100, -90), (-10, -1)),
        ([np.array([-3.0, np.nan, -3.0])], (-4, -3), (-3, -2)),
    ],
    ids=["a start far below", "even curves and one below", "a constant with a missing value"],
)
def test_the_shown_range(curves: list[np.ndarray], low: tuple[float, float], high: tuple[float, float]) -> None:
    for found, (above, below) in zip(shown_range(curves), (low, high), strict=True):
        assert above < found < below


@pytest.mark.parametrize("wrong", [{}, [1], {"full": 3}, avi.FamilyFits([])])
def test_other_objects_and_fits_without_epochs_are_refused(wrong: Any, vi: avi.AmortizedVI) -> None:
    with pytest.raises(OptionError, match="fits"):
        plot_training(wrong)
    with pytest.raises(NotFittedError, match="call fit first"):
        plot_training({"new": vi})
    assert not pyplot.get_fignums()
