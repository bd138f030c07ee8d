"""Handlers of signals wait while a call is on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from pybpfvm import interrupts
from pybpfvm.errors import InputError
from pybpfvm.interrupts import breathe, uninterrupted

pytestmark = pytest.mark.skipif(
    threading.current_thread() is not threading.main_thread(), reason="signals need this thread"
)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """They are the same afterwards, and nothing is due."""
    before = {number: signal.getsignal(number) for number in interrupts._SIGNALS}
    yield
    assert {number: signal.getsignal(number) for number in before} == before
    assert not interrupts._waiting.due


def _interrupt(number: int = signal.SIGINT) -> None:
    """Signal this thread: its handler runs before this returns, or what stands for it."""
    signal.raise_signal(number)


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
    before = signal.getsignal(signal.SIGINT)

    @uninterrupted
    def call() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    try:
        call()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_calls_the_one_before_it() -> None:
    seen: list[int] = []
    before = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    chained = signal.getsignal(signal.SIGUSR1)
    assert callable(chained)

    def chain(number: int, frame: FrameType | None) -> None:
        chained(number, frame)
        seen.append(0)

    @uninterrupted
    def call() -> None:
        _interrupt(signal.SIGUSR1)
        assert not seen

    try:
        uninterrupted(lambda: None)()
        signal.signal(signal.SIGUSR1, chain)
        call()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1, 0]


def test_all_handlers_run_though_one_raises() -> None:
    seen: list[int] = []
    before = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))

    @uninterrupted
    def call() -> None:
        _interrupt()
        _interrupt(signal.SIGUSR1)

    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen == [signal.SIGUSR1]


def test_a_handler_that_makes_a_call_in_the_middle_of_one() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, lambda *_: call(0))
    depths: list[int] = []

    @uninterrupted
    def call(depth: int) -> None:
        depths.append(depth)
        if depth:
            _interrupt(signal.SIGUSR1)
            breathe()

    try:
        with pytest.raises(InputError, match="in the middle of another"):
            call(1)
        assert depths == [1]
        call(0)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_child_of_another_thread_is_in_no_call() -> None:
    status: list[int] = []

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            try:
                ours = signal.getsignal(signal.SIGINT) == signal.default_int_handler
                os._exit(0 if ours and not interrupts._waiting.calls else 1)
            finally:
                os._exit(2)
        status.append(os.waitpid(pid, 0)[1])

    @uninterrupted
    def call() -> None:
        thread = threading.Thread(target=fork)
        thread.start()
        thread.join()

    call()
    assert status == [0]
