"""The lock of the process: one thread at a time, in order."""

import os
import signal
import threading
import time
from collections.abc import Callable

import pytest

from amortvi._util.lock import exclusive


def started(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    return thread


def joined(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


def test_one_thread_at_a_time() -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with exclusive():
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    joined(*[started(work) for _ in range(8)])
    assert (inside, most) == (0, 1)


def test_a_thread_may_enter_again_and_leaves_as_often() -> None:
    entered = threading.Event()

    def enter() -> None:
        with exclusive():
            entered.set()

    with exclusive():
        with exclusive():
            pass
        other = started(enter)
        assert not entered.wait(0.05)  # still inside
    joined(other)
    assert entered.is_set()


def test_an_error_inside_releases_it() -> None:
    with pytest.raises(ZeroDivisionError), exclusive(), exclusive():
        raise ZeroDivisionError
    joined(started(_enter))


def _enter() -> None:
    with exclusive():
        pass


def test_waiting_threads_take_turns_in_order() -> None:
    """A thread that takes the lock again and again, as a fit does after each epoch, lets the others in."""
    order: list[int] = []

    def wait(number: int) -> Callable[[], None]:
        def work() -> None:
            with exclusive():
                order.append(number)

        return work

    with exclusive():
        waiting = []
        for number in range(5):
            waiting.append(started(wait(number)))
            time.sleep(0.05)  # until it waits
    turns = 0
    while len(order) < 5 and turns < 1000:
        with exclusive():
            turns += 1
    joined(*waiting)
    assert order == list(range(5))
    assert turns <= 1  # all of them were before this one


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_while_waiting_takes_nothing() -> None:
    leave, inside = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive():
            inside.set()
            leave.wait(30)

    holder = started(hold)
    assert inside.wait(30)
    # To the process, as Ctrl-C, and not to the thread of the timer.
    timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt), exclusive():
        pytest.fail("two threads are inside")
    timer.join()
    leave.set()
    joined(holder, started(_enter))  # whoever comes next is let in
    with exclusive():
        pass


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
@pytest.mark.filterwarnings(r"ignore:This process .* is multi-threaded, use of fork\(\):DeprecationWarning")
def test_a_forked_process_does_not_wait_for_a_thread_that_it_does_not_have() -> None:
    leave, inside = threading.Event(), threading.Event()

    def hold() -> None:
        with exclusive():
            inside.set()
            leave.wait(30)

    holder = started(hold)
    assert inside.wait(30)
    child = os.fork()
    if child == 0:
        with exclusive():
            os._exit(7)
    try:
        for _ in range(300):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                break
            time.sleep(0.01)
        else:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            pytest.fail("the forked process waits for ever")
    finally:
        leave.set()
    assert os.waitstatus_to_exitcode(status) == 7
    joined(holder)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks")
@pytest.mark.filterwarnings(r"ignore:This process .* is multi-threaded, use of fork\(\):DeprecationWarning")
def test_a_fork_inside_leaves_both_processes_able_to_leave() -> None:
    with exclusive():
        child = os.fork()
        if child == 0:
            with exclusive():
                os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    joined(started(_enter))
