"""Text for people: numbers, and summaries for notebooks."""

import math
from xml.etree import ElementTree

import pytest

from amortvi._util.text import html_summary, number, p_value, with_error


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (-0.00001, 3, "−1e−05"),
        (1234.5, 2, "1,234.50"),
        (0.0, 2, "0.00"),
        (12345, 3, "12,345"),
        (math.nan, 3, "—"),
        (-math.inf, 3, "−∞"),
    ],
)
def test_numbers(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_a_standard_error_has_the_decimals_of_its_number() -> None:
    assert with_error(-0.0004, 0.0001, 2) == "0.00 ± 0.00"
    assert with_error(math.nan, 0.1) == "—"
    assert p_value(2e-51) == "< 0.001"


def test_everything_in_a_summary_is_escaped() -> None:
    bad = "<script>alert(1)</script>"
    page = html_summary(bad, {bad: bad}, header=[bad], rows=[(bad, 1)], notes=[bad])
    assert "<script" not in page
    texts = [text for text in ElementTree.fromstring(page).itertext() if text.strip() not in ("", "1")]
    assert [text.strip() for text in texts] == [bad] * 6
