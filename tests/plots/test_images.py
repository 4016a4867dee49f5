"""plot_images and plot_reconstructions put every pixel where it belongs."""

from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes

from amortvi.errors import DataError, OptionError
from amortvi.plots import plot_images, plot_reconstructions


def picture(ax: Axes) -> np.ndarray:
    (image,) = ax.images
    return np.ma.filled(np.ma.asarray(image.get_array()), np.nan)


def test_flat_images_in_a_grid(ax: Axes) -> None:
    images = torch.arange(7.0 * 144).reshape(7, 144).requires_grad_()
    assert plot_images(images, columns=3, ax=ax) is ax
    shown = picture(ax)
    assert shown.shape == (3 * 13 - 1, 3 * 13 - 1)
    for position, image in enumerate(images.detach()):
        top, left = 13 * (position // 3), 13 * (position % 3)
        np.testing.assert_array_equal(shown[top : top + 12, left : left + 12], image.reshape(12, 12))
    # The gaps and the two remaining places are empty.
    assert np.isfinite(shown).sum() == images.numel()
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0
    assert not any(spine.get_visible() for spine in ax.spines.values())


def test_images_that_are_not_square(ax: Axes) -> None:
    images = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    plot_images(images, ax=ax)
    np.testing.assert_array_equal(picture(ax), np.hstack([images[0], np.full((3, 1), np.nan), images[1]]))
    assert ax.images[0].get_clim() == (0, 29)


def test_a_new_figure_has_the_shape_of_the_grid() -> None:
    wide, high = plot_images(torch.rand(10, 64)), plot_images(torch.rand(10, 64), columns=1)
    assert wide.figure.get_figheight() < wide.figure.get_figwidth() < high.figure.get_figheight()
    assert len(pyplot.get_fignums()) == 2


def test_reconstructions_are_below_their_images(ax: Axes) -> None:
    images = torch.arange(5.0 * 16).reshape(5, 16)
    assert plot_reconstructions(images, 100 + images.reshape(5, 4, 4), columns=3, ax=ax) is ax
    shown = picture(ax)
    ticks = ax.get_yticks()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["original", "reconstruction"] * 2
    for position, image in enumerate(images):
        block, left = position // 3, 5 * (position % 3)
        for row, added in ((2 * block, 0), (2 * block + 1, 100)):
            top = round(ticks[row] - 1.5)
            np.testing.assert_array_equal(shown[top : top + 4, left : left + 4], added + image.reshape(4, 4))
    assert np.isfinite(shown).sum() == 2 * images.numel()
    # An image is closer to its reconstruction than to the next row.
    assert ticks[1] - ticks[0] < ticks[2] - ticks[1]


@pytest.mark.parametrize(
    ("images", "options", "error", "message"),
    [
        (torch.rand(4), {}, DataError, r"images must have shape .*; got \(4,\)"),
        (torch.rand(0, 4), {}, DataError, "N > 0"),
        (torch.tensor([[0.0, torch.nan, 1.0, torch.inf]]), {}, DataError, "images has 2 values that are not finite"),
        (torch.full((1, 4), 1j), {}, DataError, "images must be an array of real numbers"),
        ([[0.0], [1.0, 2.0]], {}, DataError, "images cannot be converted"),
        (torch.rand(2, 12), {}, OptionError, "side must be the square root"),
        (torch.rand(2, 16), {"side": 3}, OptionError, "side must be .* got 3, but images have 16 pixels"),
        (torch.rand(2, 16), {"side": -4}, OptionError, "side must be"),
        (torch.rand(2, 4, 4), {"side": 3}, OptionError, "side=3 does not match images of 4 by 4 pixels"),
        (torch.rand(2, 4), {"columns": 0}, OptionError, "columns must be a positive integer"),
    ],
)
def test_invalid_arguments_are_refused(images: Any, options: dict[str, int], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        plot_images(images, **options)
    with pytest.raises(error, match=message):
        plot_reconstructions(images, images, **options)
    assert not pyplot.get_fignums()


def test_invalid_reconstructions_are_refused() -> None:
    with pytest.raises(DataError, match="reconstructions must have the shape of images"):
        plot_reconstructions(torch.rand(3, 4), torch.rand(2, 4))
    with pytest.raises(DataError, match="reconstructions has 1 values"):
        plot_reconstructions(torch.rand(1, 1), torch.tensor([[float("nan")]]))
