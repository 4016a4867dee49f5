"""The figures of a report: vector graphics with the colors of the page's theme."""

import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from amortvi.plots.report.figures import draw_figure, themed_colors


def draw(points: int, *, ax: Axes) -> None:
    values = np.linspace(0, 1, points)
    ax.scatter(values, values, c=np.tile([[0.0, 0.0, 0.5]], (points, 1)), label="points")
    ax.axhline(0.5, color="0.75")
    ax.set_title("A title\nwith detail\nand more")
    ax.legend(loc="upper right")


def test_titles_are_text_of_the_page() -> None:
    figure = draw_figure(draw, 10, name="full")
    assert (figure.full_title, figure.detail) == ("full: A title", "with detail; and more")
    assert "A title" not in figure.svg
    assert 'role="img" aria-label="full: A title"' in figure.labeled


def test_many_points_are_an_image() -> None:
    assert "<image" not in draw_figure(draw, 100).svg
    many = draw_figure(draw, 5000).svg
    assert "<image" in many
    assert len(many) < 300_000


def test_every_color_has_a_value_for_the_dark() -> None:
    figure = draw_figure(draw, 10)
    colors = themed_colors([figure], ["#0072B2"])
    assert not re.search(r"#[0-9a-f]{6}", re.sub(r"var\([^)]*\)", "", figure.svg))
    assert {"bfbfbf", "000000", "0072b2", "000080"} <= set(colors)
    assert luminance(colors["000000"][1]) > 0.7
    assert luminance(colors["bfbfbf"][1]) < 0.4
    assert luminance(colors["000080"][1]) > luminance(colors["000080"][0])


def luminance(color: str) -> float:
    return float(sum(int(color[i : i + 2], 16) for i in (1, 3, 5)) / 765)


def test_the_style_of_the_user_does_not_matter(monkeypatch: Any) -> None:
    import matplotlib

    plain = draw_figure(draw, 10).svg
    with matplotlib.style.context("dark_background"):
        assert draw_figure(draw, 10).svg == plain
