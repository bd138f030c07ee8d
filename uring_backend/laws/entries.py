"""Laws of entries of twice the size: SETUP_SQE128, SETUP_CQE32 and SETUP_CQE_MIXED."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Final

from pybpfvm.uring_backend.abi import (
    CQE_F_32,
    NOP_CQE32,
    NOP_FILE,
    NOP_INJECT_RESULT,
    NOP_TW,
    O_RDONLY,
    SETUP_CQE32,
    SETUP_CQE_MIXED,
    SETUP_SQE128,
    SQE_ASYNC,
    SQE_IO_DRAIN,
    SQE_IO_LINK,
    Op,
    Sqe,
)
from pybpfvm.uring_backend.base import Completion, Message
from pybpfvm.uring_backend.lawbench import Bench, Law, bad, expect, nop

_WORDS: Final = (0x1111_2222_3333_4444, (1 << 64) - 1)
_MANY: Final = 8_000  # three times as many take more places than the CQ of a real backend has
_BATCH: Final = 1000
_CANCELED: Final = -errno.ECANCELED


def _wide(token: int, flags: int = 0, *, also: int = 0, result: int = 0) -> Sqe:
    """A NOP whose CQE has a second half."""
    return Sqe(
        Op.NOP,
        flags,
        fd=900,
        off=_WORDS[0],
        addr=_WORDS[1],
        len=result,
        op_flags=NOP_CQE32 | also | (NOP_INJECT_RESULT if result else 0),
        user_data=token,
    )


def the_second_half(bench: Bench) -> None:
    """CQE32: NOP_CQE32 fills it, with whatever result and by whatever way; it is zero in others,
    and in CQEs that come from other rings."""
    ring = bench.another(SETUP_CQE32)
    for way in (0, SQE_ASYNC, SQE_IO_DRAIN):
        ring.submit(_wide(1, way))
        expect("filled", ring.collect(1), [Completion(1, 0, 0, _WORDS)])
        ring.submit(nop(1, way))
        expect("zero again", ring.collect(1), [Completion(1, 0, 0)])
    ring.submit(_wide(1, result=77, also=NOP_TW))
    expect("with a result", ring.collect(1), [Completion(1, 77, 0, _WORDS)])
    ring.submit(_wide(1, result=(1 << 32) - errno.EIO))
    expect("of an error", ring.collect(1), [Completion(1, -errno.EIO, 0, _WORDS)])
    ring.submit(_wide(1, also=NOP_FILE))
    expect("no file", ring.collect(1), [Completion(1, -errno.EBADF, 0, _WORDS)])
    ring.submit(_wide(1, SQE_IO_LINK), nop(2, SQE_IO_LINK, fails=True), _wide(3))
    wanted = [
        Completion(1, 0, 0, _WORDS),
        Completion(2, -errno.EIO, 0),
        Completion(3, _CANCELED, 0),
    ]
    expect("in a chain", ring.collect(3), wanted)
    ring.world.add_file("f", b"content")
    fd = ring.world.open("f", O_RDONLY)
    ring.submit(Sqe(Op.READ, fd=fd, addr=ring.block, len=7, off=0, user_data=1))
    expect("of a file", (ring.collect(1), ring.get(7)), ([Completion(1, 7, 0)], b"content"))
    message = Sqe(Op.MSG_RING, fd=bench.backend.ring_fd(ring.backend), off=9, len=5)
    expect("sent", bench.result(message), 0)
    expect("a message", ring.collect(1), [Message(9, 5, 0)])


def some_have_a_second_half(bench: Bench) -> None:
    """CQE_MIXED: what NOP_CQE32 fills is marked, wherever in the queue it comes to stand."""

    def plain(token: int, res: int = 0) -> Completion:
        return Completion(token, res, 0)

    def marked(token: int, res: int = 0) -> Completion:
        return Completion(token, res, CQE_F_32, _WORDS)

    ring = bench.another(SETUP_CQE_MIXED)
    for way in (0, SQE_ASYNC, SQE_IO_DRAIN):
        ring.submit(_wide(1, way))
        expect("filled", ring.collect(1), [marked(1)])
        ring.submit(nop(1, way))
        expect("an ordinary one", ring.collect(1), [plain(1)])
    ring.submit(_wide(1, result=(1 << 32) - errno.EIO))
    expect("of an error", ring.collect(1), [marked(1, -errno.EIO)])
    ring.submit(_wide(1, also=NOP_FILE))
    expect("no file", ring.collect(1), [marked(1, -errno.EBADF)])
    ring.submit(nop(1, SQE_IO_LINK, fails=True), _wide(2))
    expect("cancelled", ring.collect(2), [plain(1, -errno.EIO), plain(2, _CANCELED)])
    ring.submit(_wide(1, SQE_IO_LINK), nop(2))
    expect("in a chain", ring.collect(2), [marked(1), plain(2)])
    message = Sqe(Op.MSG_RING, fd=bench.backend.ring_fd(ring.backend), off=9, len=5)
    expect("sent", bench.result(message), 0)
    expect("a message", ring.collect(1), [Message(9, 5, 0)])
    for shift in range(3):  # so that every place becomes the last one of the queue
        tokens = range(1, _MANY + shift)
        for first in range(0, len(tokens), _BATCH):
            part = tokens[first : first + _BATCH]
            ring.submit(*(nop(token) if token % 3 == shift else _wide(token) for token in part))
        wanted = [
            Completion(token, 0, 0)
            if token % 3 == shift
            else Completion(token, 0, CQE_F_32, _WORDS)
            for token in tokens
        ]
        expect("in order", ring.collect(len(tokens)), wanted)


def no_second_half(bench: Bench) -> None:
    """Without CQE32, NOP_CQE32 is refused when it is read; larger SQEs are no help."""
    for ring in (bench, bench.another(SETUP_SQE128)):
        expect("consumed", ring.submit(_wide(1), nop(2)), 1)
        expect("refused", ring.results(1), [(1, -errno.EINVAL)])
        results = ring.run(nop(1, SQE_IO_LINK), _wide(2, SQE_IO_LINK), nop(3))
        expect("in a chain", results, [(1, _CANCELED), (2, -errno.EINVAL), (3, _CANCELED)])


def larger_entries_change_nothing_else(bench: Bench) -> None:
    """Batches, links, drains, timeouts and what is refused are as on any ring."""
    wide = SETUP_SQE128 | SETUP_CQE32
    for flags in (SETUP_SQE128, SETUP_CQE32, wide, SETUP_CQE_MIXED, SETUP_CQE_MIXED | SETUP_SQE128):
        ring = bench.another(flags)
        count = 200
        batch = [nop(token) for token in range(1, count + 1)]
        expect("consumed", ring.submit(*batch), count)
        expect("batch", ring.results(count), [(token, 0) for token in range(1, count + 1)])
        expect("consumed", ring.submit(nop(1), bad(2), nop(3)), 2)
        expect("a bad one", ring.results(2), [(1, 0), (2, -errno.EINVAL)])
        results = ring.run(nop(1, SQE_IO_LINK, fails=True), nop(2), nop(3, SQE_IO_DRAIN))
        expect("links and drains", results, [(1, -errno.EIO), (2, _CANCELED), (3, 0)])
        expect("timeout", ring.run(ring.timeout(1, 1_000_000)), [(1, -errno.ETIME)])
        expect("in flight", ring.backend.in_flight(), 0)


LAWS: Final[Sequence[Law]] = (
    the_second_half,
    some_have_a_second_half,
    no_second_half,
    larger_entries_change_nothing_else,
)
