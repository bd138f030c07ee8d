"""Laws of filters: a denied request ends as one that could not be prepared, with -EACCES."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from pybpfvm.uring_backend.abi import (
    AF_INET,
    AT_FDCWD,
    SOCK_STREAM,
    SQE_CQE_SKIP_SUCCESS,
    SQE_IO_DRAIN,
    SQE_IO_HARDLINK,
    SQE_IO_LINK,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.lawbench import Bench, Law, bad, expect, external, nop

_LINK, _HARD = SQE_IO_LINK, SQE_IO_HARDLINK
_DENIED: Final = -errno.EACCES
_CANCELED: Final = -errno.ECANCELED
_AF_INET6: Final = 10


def _deny(bench: Bench, *tokens: int) -> None:
    bench.backend.filter_requests(lambda token: token in tokens)


def a_denied_request_ends_the_batch(bench: Bench) -> None:
    """It is consumed, completes, and what comes after it is not looked at."""
    _deny(bench, 2)
    expect("consumed", bench.submit(nop(1), nop(2), nop(3)), 2)
    expect("results", bench.results(2), [(1, 0), (2, _DENIED)])
    expect("the rest", bench.run(nop(3)), [(3, 0)])
    expect("in flight", bench.backend.in_flight(), 0)
    _deny(bench)
    expect("allowed now", bench.run(nop(2)), [(2, 0)])


def preparing_comes_first(bench: Bench) -> None:
    """What can not be prepared ends with its own error, denied or not."""
    _deny(bench, 1)
    cases = [
        (bad(1), errno.EINVAL),
        (Sqe(200, user_data=1), errno.EINVAL),
        (Sqe(Op.OPENAT, fd=AT_FDCWD, addr=8, user_data=1), errno.EFAULT),
        (Sqe(Op.SOCKET, fd=AF_INET, off=SOCK_STREAM, op_flags=1, user_data=1), errno.EINVAL),
        (Sqe(Op.TIMEOUT, addr=8, len=1, user_data=1), errno.EFAULT),
        (Sqe(Op.LINK_TIMEOUT, addr=bench.timespec(1), len=1, user_data=1), errno.EINVAL),
        (Sqe(Op.SOCKET, fd=AF_INET, off=SOCK_STREAM, user_data=1), errno.EACCES),
        # No backend has such sockets, but this one is never made.
        (Sqe(Op.SOCKET, fd=_AF_INET6, off=SOCK_STREAM, user_data=1), errno.EACCES),
        (bench.timeout(1, 1), errno.EACCES),
        (Sqe(Op.READ, fd=-1, addr=bench.block, len=1, user_data=1), errno.EACCES),
    ]
    for sqe, number in cases:
        expect(f"{sqe}", bench.result(sqe), -number)
    bench.quiet()


def a_denied_request_is_not_performed(bench: Bench) -> None:
    """Nothing of it happens."""
    bench.world.add_file("f", b"content")
    path = bench.path("f")
    _deny(bench, 1)
    expect("unlink", bench.result(Sqe(Op.UNLINKAT, fd=AT_FDCWD, addr=path, user_data=1)), _DENIED)
    expect("still there", bench.world.file_data("f"), b"content")


def denied_in_a_chain(bench: Bench) -> None:
    """Nobody in its chain runs, hard links or not; a chain goes to its end, and ends the batch
    only where the denied one is the last."""
    for link in (_LINK, _HARD):
        for at in (1, 2, 3):
            _deny(bench, at)
            chain = [nop(1, link), nop(2, link), nop(3)]
            results = [(token, _DENIED if token == at else _CANCELED) for token in (1, 2, 3)]
            consumed = 3 if at == 3 else 4
            expect(f"consumed, {at}", bench.submit(*chain, nop(4)), consumed)
            found = bench.results(consumed)
            expect(f"chain, {at}", sorted(found[:4]), sorted([*results, (4, 0)][:consumed]))


def denied_without_a_cqe_on_success(bench: Bench) -> None:
    """A denial is a failure, which is told."""
    skip = SQE_CQE_SKIP_SUCCESS
    _deny(bench, 1)
    expect("alone", bench.run(nop(1, skip)), [(1, _DENIED)])
    expect("head", bench.submit(nop(1, skip | _LINK), nop(2)), 2)
    expect("the rest is silent", bench.results(1), [(1, _DENIED)])
    bench.quiet()


def denied_behind_a_drain(bench: Bench) -> None:
    """A drain that is denied does not wait; requests behind a drain are denied at once, too."""
    _deny(bench, 3)
    bench.submit(bench.timeout(1, 30_000_000), nop(2, SQE_IO_DRAIN), nop(3))
    found = bench.results(3)
    expect("results", sorted(found), [(1, -errno.ETIME), (2, 0), (3, _DENIED)])


def external_requests_go_on(bench: Bench) -> None:
    """Backends know nothing of what the caller performs, so they ask nobody: callers do that
    themselves. Around it filters hold."""
    _deny(bench, 1, 3)
    expect("consumed", bench.submit(external(1), nop(2), nop(3)), 3)
    events = bench.collect(3)
    expect("number", len(events), 3)
    bench.backend.finish(1)
    expect("in flight", bench.backend.in_flight(), 0)


LAWS: Final[Sequence[Law]] = (
    a_denied_request_ends_the_batch,
    preparing_comes_first,
    a_denied_request_is_not_performed,
    denied_in_a_chain,
    denied_without_a_cqe_on_success,
    denied_behind_a_drain,
    external_requests_go_on,
)
