"""plot_images and plot_reconstructions put every pixel where it belongs."""

from typing import Any

import numpy as np
import pyro
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from pyro import distributions as dist

import amortvi as avi
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


def test_a_gray_channel_and_flattened_images_of_a_given_shape(ax: Axes) -> None:
    images = np.arange(2 * 3 * 5.0).reshape(2, 1, 3, 5)
    expected = picture(plot_images(images[:, 0]))
    np.testing.assert_array_equal(picture(plot_images(images)), expected)
    np.testing.assert_array_equal(picture(plot_images(images.reshape(2, 15), shape=(3, 5), ax=ax)), expected)
    assert ax.get_title() == "2 images\nblack: 0, white: 29"


@pytest.mark.parametrize("scale", [1, 255])
def test_color_images(scale: int, ax: Axes) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 2)) / 255
    given = (images * scale).round().astype(np.uint8) if scale == 255 else images
    plot_images(given, columns=3, ax=ax)
    shown = np.asarray(ax.images[0].get_array())
    assert shown.shape == (2 * 6 - 1, 3 * 3 - 1, 4)
    np.testing.assert_allclose(shown[6:11, :2, :3], images[3].transpose(1, 2, 0))
    assert shown[..., 3].sum() == 4 * 10  # all but the images is transparent
    flat = picture(plot_images(given.reshape(4, 30), shape=(3, 5, 2), columns=3))
    np.testing.assert_array_equal(flat, shown)


def test_an_estimator_draws_its_reconstructions(ax: Axes) -> None:
    model = avi.models.VAE(torch.nn.Linear(2, 9), 2, likelihood="normal")
    x = torch.rand(4, 9)
    vi = avi.AmortizedVI(model, avi.encoders.MLP(9, [])).setup(x, seed=0)
    plot_reconstructions(vi, x, draws=7, seed=1, ax=ax)
    mean = vi.predict(x, draws=7, seed=1)["x"].double().mean(0)
    expected = picture(plot_reconstructions(x, mean))
    np.testing.assert_allclose(picture(ax), expected)
    assert ax.get_title().startswith("Images and posterior predictive means\nblack: ")
    with pytest.raises(OptionError, match="draws would be ignored"):
        plot_reconstructions(x, x, draws=7)


def test_an_estimator_of_several_sites_needs_arrays() -> None:
    def two(x: torch.Tensor, y: torch.Tensor) -> None:
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=y)

    data = (torch.rand(3, 2), torch.rand(3, 2))
    vi = avi.AmortizedVI(two, avi.encoders.MLP(4, [])).setup(data, seed=0)
    with pytest.raises(OptionError, match=r"several observed .* \['x', 'y'\]"):
        plot_reconstructions(vi, data)


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
        (torch.rand(2, 12), {}, OptionError, "shape must be given"),
        (torch.rand(2, 16), {"shape": (3, 3)}, OptionError, r"shape=\(3, 3\) does not match images of 16 pixels"),
        (torch.rand(2, 16), {"shape": 4}, OptionError, r"shape must be \(H, W\)"),
        (
            torch.rand(2, 4, 4),
            {"shape": (3, 3)},
            OptionError,
            r"shape=\(3, 3\) does not match images of shape \(4, 4\)",
        ),
        (torch.rand(2, 2, 4, 4), {}, DataError, "images must have 1 or 3 channels"),
        (torch.rand(2, 3, 4, 4) + 0.9, {}, DataError, "images in color must have values between 0 and 1"),
        (torch.full((2, 3, 4, 4), torch.nan), {}, DataError, "images has 96 values that are not finite"),
        (torch.rand(2, 1, 3, 4, 4), {}, DataError, "images must have shape"),
        (torch.rand(2, 4), {"columns": 0}, OptionError, "columns must be a positive integer"),
    ],
)
def test_invalid_arguments_are_refused(images: Any, options: dict[str, Any], error: Any, message: str) -> None:
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
