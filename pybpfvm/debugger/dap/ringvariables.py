"""Rings as variables: the SQ, each CQ, what is in flight, what is parked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from pybpfvm.bits import s32
from pybpfvm.debugger.dap.variables import Shown, group
from pybpfvm.debugger.ringstate import QueueState, RequestState, RingState
from pybpfvm.errors import errno_name
from pybpfvm.uring_backend.abi import Cqe, Op


def ring_shown(ring: RingState) -> Shown:
    """A ring, to be unfolded."""
    children = [
        Shown("time", f"{ring.time_ns} ns"),
        Shown("SQ", "" if ring.sq_entries is None else f"{ring.sq_entries} entries"),
        *(_queue(number, queue) for number, queue in sorted(ring.queues.items())),
        _requests("in flight", ring.inflight),
        _requests("parked", ring.parked),
        Shown("overflow", f"{ring.overflow} CQE(s) lost"),
        group("runs", [Shown(name, str(count)) for name, count in sorted(ring.ran.items())]),
    ]
    if ring.host_waits is not None:
        cq, wanted = ring.host_waits
        children.append(Shown("host", f"waits for {wanted} CQE(s) on CQ {cq}"))
    value = f"{len(ring.inflight)} in flight, {len(ring.parked)} parked"
    return Shown(ring.name, value, inside=lambda: iter(children), count=len(children))


def _queue(number: int, queue: QueueState) -> Shown:
    size = "" if queue.entries is None else f" of {queue.entries}"
    waiting = f", {len(queue.backlog)} wait for room" if queue.backlog else ""
    lost = f", {queue.lost} lost" if queue.lost else ""
    count = len(queue.cqes) + len(queue.backlog)
    return Shown(
        f"CQ {number}",
        f"{len(queue.cqes)}{size} CQE(s){waiting}{lost}",
        inside=(lambda: _cqes(queue)) if count else None,
        count=count,
        indexed=True,
    )


def _cqes(queue: QueueState) -> Iterator[Shown]:
    for number, cqe in enumerate(queue.cqes):
        yield _cqe(f"[{number}]", cqe)
    for number, cqe in enumerate(queue.backlog):
        yield _cqe(f"waits [{number}]", cqe)


def _cqe(name: str, cqe: Cqe) -> Shown:
    res = s32(cqe.res & 0xFFFF_FFFF)
    fields = [
        Shown("user_data", f"{cqe.user_data:#x}"),
        Shown("res", f"{res} ({errno_name(res)})" if res < 0 else str(res)),
        Shown("flags", f"{cqe.flags:#x}"),
    ]
    value = ", ".join(f"{one.name} = {one.value}" for one in fields)
    return Shown(name, value, inside=lambda: iter(fields), count=len(fields))


def _requests(name: str, requests: Sequence[RequestState]) -> Shown:
    return Shown(
        name,
        f"{len(requests)} request(s)",
        inside=(lambda: _each(requests)) if requests else None,
        count=len(requests),
        indexed=True,
    )


def _each(requests: Iterable[RequestState]) -> Iterator[Shown]:
    for one in requests:
        op = _opcode(one.opcode)
        fields = [
            Shown("opcode", op),
            Shown("user_data", f"{one.user_data:#x}"),
            Shown("cq", str(one.cq)),
            Shown("flags", f"{one.flags:#x}"),
            Shown("by", one.origin),
            Shown("sqe", one.sqe.hex(" ")),
        ]
        value = f"{op}, user_data = {one.user_data:#x}, by {one.origin}"
        if one.waits is not None:
            cq, wanted = one.waits
            fields.append(Shown("waits for", f"{wanted} CQE(s) on CQ {cq}"))
            value += f", waits for {wanted} CQE(s) on CQ {cq}"
        elif not one.started:
            value += ", not known to have started"
        yield Shown(
            f"request {one.request}",
            value,
            inside=partial(iter, fields),
            count=len(fields),
        )


def _opcode(number: int) -> str:
    try:
        return Op(number).name
    except ValueError:
        return f"opcode {number}"
