"""Families have the same color in every figure."""

import itertools

import pytest

from amortvi.families import NAMED, family_label
from amortvi.plots.palette import PALETTE, family_color, family_colors


def test_the_named_families_have_different_colors() -> None:
    colors = {name: family_color(name) for name in NAMED}
    assert len(set(colors.values())) == len(NAMED)
    assert family_colors(NAMED) == colors


@pytest.mark.parametrize("name", NAMED)
def test_class_options_and_remarks_do_not_matter(name: str) -> None:
    for label in (family_label(NAMED[name]), f"{name}(5)", f"{name}, seed 1"):
        assert family_color(label) == family_color(name)


def test_other_names_have_a_color_of_their_own() -> None:
    assert family_color("wide") == family_color("wide") == "#CC6677"  # in every process
    assert family_color("") not in {family_color(name) for name in NAMED}


def test_the_colors_of_one_figure_differ_and_do_not_depend_on_the_order() -> None:
    names = ["full", "full, wide encoder", "a", "b", "c"]
    found = family_colors(names)
    assert len(set(found.values())) == len(names)
    assert found["full"] == family_color("full")
    for order in itertools.permutations(names):
        assert family_colors(order) == found
    assert len(family_colors(map(str, range(40)))) == 40  # more than there are colors


def luminance(color: str) -> float:
    """Return the relative luminance of the Web Content Accessibility Guidelines."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("color", [*PALETTE, *map(family_color, NAMED)])
def test_colors_are_visible_on_white(color: str) -> None:
    assert 1.05 / (luminance(color) + 0.05) > 2
