"""Rings as variables: the SQ, each CQ, what is in flight, what is parked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial

from pybpfvm.bits import s32
from pybpfvm.debugger.dap.variables import Shown, group
from pybpfvm.errors import errno_name
from pybpfvm.filters.context import opcode_name
from pybpfvm.trace.ringstate import QueueState, RequestState, RingState
from pybpfvm.uring_backend.abi import Cqe, Sqe


def ring_shown(ring: RingState, bpf_opcode: int | None) -> Shown:
    """A ring, to be unfolded. `bpf_opcode` is that of requests that are programs."""
    children = [
        Shown("time", f"{ring.time_ns} ns"),
        _sq(ring, bpf_opcode),
        *(_queue(number, queue) for number, queue in sorted(ring.queues.items())),
        _requests("in flight", ring.inflight, bpf_opcode),
        _requests("parked", ring.parked, bpf_opcode),
        Shown("overflow", f"{ring.overflow} CQE(s) lost"),
        group("runs", [Shown(name, str(count)) for name, count in sorted(ring.ran.items())]),
    ]
    if ring.host_waits is not None:
        cq, wanted = ring.host_waits
        children.append(Shown("host", f"waits for {wanted} CQE(s) on CQ {cq}"))
    value = f"{len(ring.inflight)} in flight, {len(ring.parked)} parked"
    return Shown(ring.name, value, inside=lambda: iter(children), count=len(children))


def _sq(ring: RingState, bpf_opcode: int | None) -> Shown:
    size = "" if ring.sq_entries is None else f"{ring.sq_entries} entries"
    if ring.queue is None or not ring.queue.sqes:
        return Shown("SQ", size)
    sqes = [_sqe(f"[{number}]", raw, bpf_opcode) for number, raw in enumerate(ring.queue.sqes)]
    value = f"{len(sqes)} of {size}" if size else f"{len(sqes)} SQE(s)"
    return Shown("SQ", value, inside=lambda: iter(sqes), count=len(sqes), indexed=True)


def _sqe(name: str, raw: bytes, bpf_opcode: int | None) -> Shown:
    if not raw:
        return Shown(name, "names no SQE")
    sqe = Sqe.unpack(raw)
    op = "BPF" if sqe.opcode == bpf_opcode else opcode_name(sqe.opcode)
    fields = [
        Shown("opcode", op),
        Shown("fd", str(sqe.fd)),
        Shown("user_data", f"{sqe.user_data:#x}"),
        Shown("sqe", raw.hex(" ")),
    ]
    value = f"{op}, fd = {sqe.fd}, user_data = {sqe.user_data:#x}"
    return Shown(name, value, inside=lambda: iter(fields), count=len(fields))


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


def _requests(name: str, requests: Sequence[RequestState], bpf_opcode: int | None) -> Shown:
    return Shown(
        name,
        f"{len(requests)} request(s)",
        inside=(lambda: _each(requests, bpf_opcode)) if requests else None,
        count=len(requests),
        indexed=True,
    )


def _each(requests: Iterable[RequestState], bpf_opcode: int | None) -> Iterator[Shown]:
    for one in requests:
        op = "BPF" if one.opcode == bpf_opcode else opcode_name(one.opcode)
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
