"""Signals that are held back until nothing is lost by obeying them."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from amortvi._util.signals import HeldSignals

pytestmark = pytest.mark.skipif(os.name != "posix", reason="other signals")


@pytest.fixture(autouse=True)
def _same_handlers_afterwards() -> Iterator[None]:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def send(number: signal.Signals) -> None:
    signal.raise_signal(number)


def test_ctrl_c_waits_until_it_is_obeyed() -> None:
    with HeldSignals() as held:
        held.obey()  # nothing to obey
        send(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            held.obey()
        held.obey()  # once


def test_sigterm_ends_the_process_with_its_status() -> None:
    with HeldSignals() as held:
        send(signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            held.obey()
    assert caught.value.code == 143


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_is_obeyed_at_the_end_at_the_latest(number: signal.Signals, error: type[BaseException]) -> None:
    with pytest.raises(error), HeldSignals():
        send(number)


def test_an_error_is_not_replaced_by_a_signal() -> None:
    def fail() -> None:
        with HeldSignals():
            send(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


def test_a_second_signal_is_obeyed_at_once() -> None:
    with HeldSignals():
        send(signal.SIGINT)
        with pytest.raises(SystemExit):
            send(signal.SIGTERM)


def test_other_handlers_come_back() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with HeldSignals():
            pass
        send(signal.SIGTERM)
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_in_another_thread_nothing_is_held() -> None:
    found: list[bool] = []

    def work() -> None:
        before = signal.getsignal(signal.SIGINT)
        with HeldSignals() as held:
            found.append(signal.getsignal(signal.SIGINT) is before)
            held.obey()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]
