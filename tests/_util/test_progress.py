"""Progress bars are shown on request and in terminals, and leave log files alone."""

import io
import sys

import pytest

from amortvi._util.progress import progress_bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "progress", "shown"),
    [(Terminal, None, True), (Terminal, False, False), (io.StringIO, None, False), (io.StringIO, True, True)],
)
def test_the_default_is_a_bar_in_a_terminal_only(
    stream: type[io.StringIO], progress: bool | None, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    with progress_bar(progress, total=2, desc="steps") as bar:
        bar.update()
    written = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert ("steps" in written) == shown
    assert shown or not written
