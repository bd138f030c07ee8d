"""Handlers of signals wait while a call is on."""

import signal
import threading
from collections.abc import Iterator

import pytest

from pybpfvm import interrupts
from pybpfvm.interrupts import breathe, uninterrupted


def _interrupt(number: int = signal.SIGINT) -> None:
    """Signal this thread; its handler runs before this returns, or what stands for it."""
    signal.raise_signal(number)


@pytest.fixture
def watched() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals need the main thread")
    before = {number: signal.getsignal(number) for number in interrupts._SIGNALS}
    interrupts.watch()
    yield
    interrupts.unwatch()
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.mark.usefixtures("watched")
def test_a_handler_runs_at_the_end_of_the_outermost_call() -> None:
    done = []

    @uninterrupted
    def inner() -> None:
        _interrupt()
        done.append("inner")

    @uninterrupted
    def outer() -> None:
        inner()
        done.append("outer")

    with pytest.raises(KeyboardInterrupt):
        outer()
    assert done == ["inner", "outer"]
    with pytest.raises(KeyboardInterrupt):
        _interrupt()


@pytest.mark.usefixtures("watched")
def test_a_handler_runs_where_a_call_can_be_left() -> None:
    done = []

    @uninterrupted
    def call() -> None:
        breathe()
        _interrupt()
        done.append(1)
        breathe()
        done.append(2)

    with pytest.raises(KeyboardInterrupt):
        call()
    assert done == [1]
    breathe()  # once


@pytest.mark.usefixtures("watched")
def test_the_second_signal_does_not_wait() -> None:
    done = []

    @uninterrupted
    def call() -> None:
        _interrupt()
        done.append(1)
        _interrupt()
        done.append(2)

    with pytest.raises(KeyboardInterrupt):
        call()
    assert done == [1]
    breathe()


@pytest.mark.usefixtures("watched")
def test_other_threads_calls_do_not_make_it_wait() -> None:
    inside, leave = threading.Event(), threading.Event()

    @uninterrupted
    def call() -> None:
        inside.set()
        leave.wait(10)

    thread = threading.Thread(target=call)
    thread.start()
    inside.wait(10)
    try:
        with pytest.raises(KeyboardInterrupt):
            _interrupt()
    finally:
        leave.set()
        thread.join()


def test_a_handler_set_meanwhile_stays() -> None:
    if threading.current_thread() is not threading.main_thread():
        pytest.skip("signals need the main thread")
    before = signal.getsignal(signal.SIGINT)
    interrupts.watch()
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    finally:
        interrupts.unwatch()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    signal.signal(signal.SIGINT, before)


def test_what_comes_while_signals_are_held_waits_for_a_place_to_breathe() -> None:
    with interrupts.watching():
        with interrupts.held():
            _interrupt()
        with pytest.raises(KeyboardInterrupt):
            breathe()
        breathe()


def test_what_comes_after_all_is_done_stops_nothing() -> None:
    with interrupts.watching(), interrupts.held():
        _interrupt()
    breathe()
    with pytest.raises(KeyboardInterrupt):
        _interrupt()
