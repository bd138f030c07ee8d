"""Laws of waiting for something that is not a file: futexes and child processes."""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence
from typing import Final

from pybpfvm.uring_backend.abi import (
    ASYNC_CANCEL_ALL,
    ASYNC_CANCEL_OP,
    CLD_EXITED,
    CLD_KILLED,
    FUTEX2_PRIVATE,
    FUTEX2_SIZE_U32,
    FUTEX_WAITV_STRUCT,
    P_PID,
    SIGCHLD,
    SQE_IO_LINK,
    WEXITED,
    WNOHANG,
    WNOWAIT,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.lawbench import Bench, Law, expect, expect_errno, nop

_PRIVATE: Final = FUTEX2_PRIVATE | FUTEX2_SIZE_U32
_ALL: Final = 0xFFFF_FFFF
_CANCELED: Final = -errno.ECANCELED
_SIGKILL: Final = 9
_WORDS: Final = 4096  # offset of the words
_INFO: Final = 8192


def _words(bench: Bench, *values: int) -> int:
    return bench.put(struct.pack(f"<{len(values)}I", *values), _WORDS)


def _wait(token: int, addr: int, value: int, mask: int = _ALL, flags: int = _PRIVATE) -> Sqe:
    return Sqe(Op.FUTEX_WAIT, fd=flags, addr=addr, off=value, addr3=mask, user_data=token)


def _wake(token: int, addr: int, most: int, mask: int = _ALL, flags: int = _PRIVATE) -> Sqe:
    return Sqe(Op.FUTEX_WAKE, fd=flags, addr=addr, off=most, addr3=mask, user_data=token)


def futexes(bench: Bench) -> None:
    """A waiter waits while the word is as expected; a wake-up names a mask and a number."""
    word = _words(bench, 5)
    expect_errno("another value", bench.result(_wait(1, word, 4)), errno.EAGAIN)
    bench.submit(*(_wait(token, word, 5, 3) for token in (1, 2, 3)))
    bench.quiet()
    expect("other mask", bench.run(_wake(9, word, 9, 4)), [(9, 0)])
    expect("shared", bench.run(_wake(9, word, 9, flags=FUTEX2_SIZE_U32)), [(9, 0)])
    expect("nobody wanted", bench.run(_wake(9, word, 0)), [(9, 0)])
    bench.submit(_wake(9, word, 2, 1))
    expect("two, oldest first", bench.results(3), [(9, 2), (1, 0), (2, 0)])
    bench.submit(_wake(9, word, 100))
    expect("the last", bench.results(2), [(9, 1), (3, 0)])


def futex_arguments(bench: Bench) -> None:
    """What FUTEX_* refuse, and when."""
    word = _words(bench, 5)
    refused = [
        (_wait(1, word, 5, flags=FUTEX2_PRIVATE), errno.EINVAL),
        (_wait(1, word, 5, flags=1 << 9), errno.EINVAL),
        (_wait(1, word + 1, 5), errno.EINVAL),
        (_wait(1, 8, 5), errno.EFAULT),
        (_wait(1, 1 << 63, 5), errno.EFAULT),
        (_wait(1, word, 5, 0), errno.EINVAL),
        (_wait(1, word, 1 << 32), errno.EINVAL),
        (_wait(1, word, 5, 1 << 32), errno.EINVAL),
        (Sqe(Op.FUTEX_WAIT, fd=_PRIVATE, addr=word, off=5, len=1), errno.EINVAL),
        (_wake(1, word, 1, 0), errno.EINVAL),
        (_wake(1, word + 1, 1), errno.EINVAL),
        (Sqe(Op.FUTEX_WAKE, fd=_PRIVATE, addr=word, off=5, op_flags=1), errno.EINVAL),
        (Sqe(Op.FUTEX_WAITV, fd=0, addr=word, len=0), errno.EINVAL),
        (Sqe(Op.FUTEX_WAITV, fd=0, addr=word, len=129), errno.EINVAL),
        (Sqe(Op.FUTEX_WAITV, fd=0, addr=8, len=1), errno.EFAULT),
        (Sqe(Op.FUTEX_WAITV, fd=1, addr=word, len=1), errno.EINVAL),
    ]
    for sqe, number in refused:
        expect_errno(f"{sqe}", bench.result(sqe), number)
    expect("nobody at a bad address", bench.result(_wake(1, 8, 1)), 0)


def waiting_for_one_of_several_words(bench: Bench) -> None:
    """FUTEX_WAITV: the index of the word that was woken."""
    words = _words(bench, 5, 6)

    def waitv(token: int, *entries: tuple[int, int, int, int]) -> Sqe:
        raw = b"".join(FUTEX_WAITV_STRUCT.pack(*entry) for entry in entries)
        return Sqe(Op.FUTEX_WAITV, fd=0, addr=bench.put(raw), len=len(entries), user_data=token)

    one, two = (5, words, _PRIVATE, 0), (6, words + 4, _PRIVATE, 0)
    expect_errno("value", bench.result(waitv(1, one, (7, words, _PRIVATE, 0))), errno.EAGAIN)
    expect_errno("reserved", bench.result(waitv(1, (5, words, _PRIVATE, 1))), errno.EINVAL)
    expect_errno("size", bench.result(waitv(1, (5, words, FUTEX2_PRIVATE, 0))), errno.EINVAL)
    expect_errno("address", bench.result(waitv(1, (5, 8, _PRIVATE, 0))), errno.EFAULT)
    bench.submit(waitv(1, one, two))
    bench.quiet()
    bench.submit(_wake(9, words + 4, 1))
    expect("the second", bench.results(2), [(9, 1), (1, 1)])
    expect("the first is left, too", bench.run(_wake(9, words, 1)), [(9, 0)])


def cancelling_waiters(bench: Bench) -> None:
    """Futexes and children count as one each, however many wait."""
    word = _words(bench, 5)
    bench.submit(_wait(1, word, 5))
    bench.submit(Sqe(Op.ASYNC_CANCEL, addr=1, user_data=9))
    expect("by token", bench.results(2), [(9, 1), (1, _CANCELED)])
    bench.submit(_wait(1, word, 5), _wait(2, word, 5), _wait(3, word, 5))
    flags = ASYNC_CANCEL_OP | ASYNC_CANCEL_ALL
    bench.submit(Sqe(Op.ASYNC_CANCEL, len=Op.FUTEX_WAIT, op_flags=flags, user_data=9))
    results = bench.results(4)
    expect("by opcode", sorted(results[1:]), [(1, _CANCELED), (2, _CANCELED), (3, _CANCELED)])
    expect("counted once", results[0], (9, 1))
    expect("nobody is left", bench.run(_wake(9, word, 9)), [(9, 0)])
    waiter = Sqe(Op.FUTEX_WAIT, SQE_IO_LINK, fd=_PRIVATE, addr=word, off=5, addr3=1, user_data=1)
    bench.submit(waiter, bench.guard(2, 1_000_000))
    expect("by a LINK_TIMEOUT", sorted(bench.results(2)), [(1, _CANCELED), (2, 1)])


def _waitid(bench: Bench, pid: int, options: int, token: int = 1, info: int = -1) -> Sqe:
    addr = bench.block + _INFO if info < 0 else info
    return Sqe(Op.WAITID, fd=pid, len=P_PID, off=addr, file_index=options, user_data=token)


def _info(bench: Bench) -> tuple[int, int, int, int]:
    """(signal, code, pid, status) of the siginfo."""
    signo, _, code, pid, _, status = struct.unpack("<iii4xiIi", bench.get(28, _INFO))
    return signo, code, pid, status


def children(bench: Bench) -> None:
    """WAITID: waits for a child to end, tells how, and does so once."""
    pid = bench.world.child()
    expect("not yet", bench.result(_waitid(bench, pid, WEXITED | WNOHANG)), 0)
    expect("nothing told", _info(bench), (0, 0, 0, 0))
    bench.submit(_waitid(bench, pid, WEXITED | WNOWAIT))
    bench.quiet()
    bench.world.end_child(pid, 7)
    expect("ended", bench.results(1), [(1, 0)])
    expect("how", _info(bench), (SIGCHLD, CLD_EXITED, pid, 7))
    expect("again", bench.run(_waitid(bench, pid, WEXITED)), [(1, 0)])
    expect_errno("it is gone", bench.result(_waitid(bench, pid, WEXITED)), errno.ECHILD)
    pid = bench.world.child()
    bench.world.end_child(pid, -_SIGKILL)
    expect("killed", bench.run(_waitid(bench, pid, WEXITED)), [(1, 0)])
    expect("by a signal", _info(bench), (SIGCHLD, CLD_KILLED, pid, _SIGKILL))


def children_that_can_not_be_waited_for(bench: Bench) -> None:
    """Bad options, and processes of somebody else."""
    pid = bench.world.child()
    refused = [
        (_waitid(bench, pid, 0), errno.EINVAL),
        (_waitid(bench, pid, WEXITED | 0x100), errno.EINVAL),
        (_waitid(bench, 1, WEXITED), errno.ECHILD),
        (_waitid(bench, -1, WEXITED), errno.EINVAL),
        (_waitid(bench, 0, WEXITED), errno.EINVAL),
        (_waitid(bench, pid, WEXITED | WNOHANG, info=8), errno.EFAULT),
        (Sqe(Op.WAITID, fd=pid, len=P_PID, addr=1, file_index=WEXITED), errno.EINVAL),
    ]
    for sqe, number in refused:
        expect_errno(f"{sqe}", bench.result(sqe), number)
    bench.submit(_waitid(bench, pid, WEXITED))
    bench.submit(Sqe(Op.ASYNC_CANCEL, addr=1, user_data=2))
    expect("cancelled", bench.results(2), [(2, 1), (1, _CANCELED)])
    expect("the ring goes on", bench.run(nop(1)), [(1, 0)])


LAWS: Final[Sequence[Law]] = (
    futexes,
    futex_arguments,
    waiting_for_one_of_several_words,
    cancelling_waiters,
    children,
    children_that_can_not_be_waited_for,
)
