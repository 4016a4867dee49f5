"""plot_images and plot_reconstructions: every pixel where it belongs."""

from __future__ import annotations

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


def test_grid_of_flat_images(ax: Axes) -> None:
    images = torch.rand(7, 12 * 12, generator=torch.Generator().manual_seed(0))
    assert plot_images(images, columns=3, ax=ax) is ax
    shown = picture(ax)
    assert shown.shape == (3 * 13 - 1, 3 * 13 - 1)
    for number, image in enumerate(images):
        top, left = 13 * (number // 3), 13 * (number % 3)
        np.testing.assert_allclose(shown[top : top + 12, left : left + 12], image.reshape(12, 12))
    # What is no image is empty: the gaps and the two places that are left.
    assert np.isfinite(shown).sum() == images.numel()


def test_images_that_are_not_square(ax: Axes) -> None:
    images = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    plot_images(images, ax=ax)
    np.testing.assert_array_equal(picture(ax), np.hstack([images[0], np.full((3, 1), np.nan), images[1]]))
    assert ax.images[0].get_clim() == (0, 29)


def test_images_with_gradient_are_drawn(ax: Axes) -> None:
    plot_images(torch.rand(2, 4, requires_grad=True), side=2, ax=ax)
    assert picture(ax).shape == (2, 5)


def test_no_frame_and_no_ticks(ax: Axes) -> None:
    plot_images(torch.rand(2, 4), ax=ax)
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 0
    assert not any(spine.get_visible() for spine in ax.spines.values())


def test_new_figure_fits_the_grid() -> None:
    wide, high = plot_images(torch.rand(10, 64)), plot_images(torch.rand(10, 64), columns=1)
    assert wide.figure.get_figheight() < wide.figure.get_figwidth() < high.figure.get_figheight()  # type: ignore[union-attr]
    assert len(pyplot.get_fignums()) == 2


def test_originals_lie_above_their_reconstructions(ax: Axes) -> None:
    images = torch.rand(5, 16, generator=torch.Generator().manual_seed(1))
    assert plot_reconstructions(images, 10 + images.reshape(5, 4, 4), columns=3, ax=ax) is ax
    shown = picture(ax)
    ticks = ax.get_yticks()
    assert [label.get_text() for label in ax.get_yticklabels()] == ["original", "reconstruction"] * 2
    for number, image in enumerate(images):
        block, left = number // 3, 5 * (number % 3)
        for position, added in ((2 * block, 0), (2 * block + 1, 10)):
            top = round(ticks[position] - 1.5)
            np.testing.assert_allclose(shown[top : top + 4, left : left + 4], added + image.reshape(4, 4), rtol=1e-6)
    assert np.isfinite(shown).sum() == 2 * images.numel()
    # Pairs stand closer than blocks.
    assert ticks[1] - ticks[0] < ticks[2] - ticks[1]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(4), r"images must have shape .*; got \(4,\)"),
        (torch.rand(0, 4), "N > 0"),
        (torch.rand(2, 3, 4, 4), "images must have shape"),
        (torch.tensor([[0.0, float("nan"), 1.0, float("inf")]]), "images has 2 values that are not finite"),
        ([["a", "b"]], "images must be an array of real numbers"),
        (torch.full((1, 4), 1j), "images must be an array of real numbers"),
        ([[0.0], [1.0, 2.0]], "images cannot be read as an array"),
    ],
)
def test_data_that_are_no_images(images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        plot_images(images)
    assert not pyplot.get_fignums()


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((2, 12), {}, "side must be the square root"),
        ((2, 16), {"side": 3}, "side must be the square root of the pixels of an image; got 3 for images of 16 pixels"),
        ((2, 16), {"side": -4}, "side must be"),
        ((2, 4, 4), {"side": 3}, "side=3 does not fit"),
        ((2, 4), {"columns": 0}, "columns must be a positive integer"),
        ((2, 4), {"columns": 2.5}, "columns must be a positive integer"),
    ],
)
def test_options_out_of_range(shape: tuple[int, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        plot_images(torch.rand(shape), **options)
    with pytest.raises(OptionError, match=message):
        plot_reconstructions(torch.rand(shape), torch.rand(shape), **options)


def test_reconstructions_of_something_else() -> None:
    with pytest.raises(DataError, match=r"reconstructions must be as many and as large as images"):
        plot_reconstructions(torch.rand(3, 4), torch.rand(2, 4))
    with pytest.raises(DataError, match="reconstructions has 1 values"):
        plot_reconstructions(torch.rand(1, 1), torch.tensor([[float("nan")]]))
