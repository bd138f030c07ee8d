"""The steps of a scenario: what each does to rings, peers and memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from pybpfvm.errors import InputError, LoadRejected, RingError, RingHang, Trap, errno_name
from pybpfvm.events import Noted
from pybpfvm.filters.table import Scope
from pybpfvm.filters.uapi import Registrar
from pybpfvm.scenario.compare import Finding, compare, differing
from pybpfvm.scenario.live import Live, LiveRing, placed
from pybpfvm.scenario.model import (
    Action,
    Attach,
    Check,
    CloseFd,
    Connect,
    Detach,
    Enable,
    Enter,
    FilterSpec,
    Later,
    NetworkChange,
    PeerEnd,
    PeerRecv,
    PeerSend,
    Register,
    Scenario,
    Signal,
    Sleep,
    Step,
    Submit,
    Unregister,
    Wait,
    Write,
)
from pybpfvm.scenario.outcome import ShortSubmit, Stopped
from pybpfvm.scenario.progress import Progress
from pybpfvm.session import LoopRing
from pybpfvm.uring_backend.choices import Chooser

_PEER_TRIES = 500
_SHOWN_BYTES = 80  # of what a peer received, as text
_PEER_TRY_NS = 10_000_000
# Before these nothing needs to happen first: it can happen in them.
_PASSES_TIME = (Wait, Sleep, PeerRecv, Enter)


def take_steps(
    scenario: Scenario, live: Live, progress: Progress, chooser: Chooser | None
) -> Stopped | None:
    """Register and attach what is there from the beginning, and take the steps, until something
    stops them."""
    try:
        for one in live.rings.values():
            _put_programs(scenario, live, one, progress)
        for index, step in enumerate(scenario.steps):
            progress.step = index
            if chooser is not None:
                chooser.host_acts()
                if index and not isinstance(step.action, _PASSES_TIME):
                    live.ring.before_step()
            if progress.observer is not None:
                on = live.on(step.ring)
                told = f"steps[{index}]: {_told(step.action)}"
                told += f" on {on.name}" if step.ring else ""
                progress.see(Noted(on.ring.now_ns(), "step", told))
            _step(step, live, progress)
    except (RingHang, Trap, LoadRejected) as stop:
        return stop
    return None


def _put_programs(scenario: Scenario, live: Live, one: LiveRing, progress: Progress) -> None:
    """Register or attach what is on a ring from the beginning."""
    prefix = "" if one is live.first else f"rings.{one.name}."
    if one.plan.programs:
        progress.place = f"{prefix}programs"
        with placed(scenario, f"{scenario.path}: {progress.place}"):
            live.register(one.plan.programs, one)
    if live.object.profile.loop is not None:
        progress.place = f"{prefix}attach"
        with placed(scenario, f"{scenario.path}: {progress.place}"):
            for name in _attached_first(scenario, live, one):
                live.attach(name, one)


def _attached_first(scenario: Scenario, live: Live, one: LiveRing) -> Sequence[str]:
    """The callbacks that are on the ring from the beginning."""
    if one.plan.attach is not None:
        return one.plan.attach
    if any(isinstance(step.action, Attach) for step in scenario.steps):
        return ()
    known = live.object.callbacks
    if len(known) != 1:
        raise InputError(
            f"the object has {len(known)} structs of callbacks",
            remedy=f"say which: {', '.join(known)}"
            if known
            else "compile it with -g: its BTF says what they are"
            if live.object.object.btf is None
            else "",
        )
    return known


def _told(action: Action) -> str:
    """The step in a few words."""
    match action:
        case Attach():
            return f"attach {action.callbacks}"
        case Detach():
            return f"detach {action.callbacks}"
        case Enter():
            return "enter"
        case Enable():
            return "enable"
        case Signal():
            return "signal"
        case Later():
            return f"{_told(action.action)} after {action.delay_ns / 1e6:g} ms"
        case Submit():
            return f"submit {len(action.sqes)}"
        case Wait():
            return f"wait for {action.count} on CQ {action.cq}"
        case Sleep():
            return f"sleep {action.duration_ns / 1e6:g} ms"
        case Write():
            return f"write {action.block}"
        case Connect():
            return f"connect {action.peer} to {action.to}"
        case PeerSend():
            return f"send {action.peer}"
        case PeerRecv():
            return f"recv {action.peer}"
        case PeerEnd():
            return f"{'close' if action.close else 'shutdown'} {action.peer}"
        case CloseFd():
            return f"close {action.fd}"
        case NetworkChange():
            return f"network of {action.peer or 'all'}"
        case Register():
            return "register"
        case Unregister():
            return "unregister"
        case FilterSpec():
            return f"filter {action.wanted.name}".rstrip()
        case Check():
            return "check"


def _step(step: Step, live: Live, progress: Progress) -> None:
    with placed(live.scenario, step.where):
        progress.findings += _act(step, live, progress)


def _act(step: Step, live: Live, progress: Progress) -> Iterable[Finding]:
    action, where, on = step.action, step.where, live.on(step.ring)
    ring = on.ring
    match action:
        case PeerSend() | PeerRecv() | PeerEnd() | NetworkChange() if _awaits(action.peer, live):
            return [Finding(where, f"{action.peer} is connected", "its step has not come yet")]
        case Submit():
            for sqe in action.sqes:
                live.fill_sqe(sqe, on)
            live.starts()
            if action.errno:
                return _refused(ring.submit, action.errno, where)
            decides = isinstance(ring, LoopRing) and ring.core.driven
            consumed = ring.submit()
            if action.consumed is None:
                short = ShortSubmit(where, len(action.sqes), consumed)
                progress.submitted(short, decides=decides)
            elif consumed != action.consumed:
                return [Finding(where, f"{action.consumed} SQEs consumed", str(consumed))]
        case Wait():
            return _wait(action, on, progress, where)
        case Sleep():
            ring.run_until_idle(action.duration_ns)
        case Write():
            block, data = live.blocks[action.block], live.render(action.content)
            if progress.watcher is not None:
                progress.watcher.host_writes(block.addr + action.offset, len(data))
            block.write(data, action.offset)
        case Connect():
            live.peers[action.peer] = ring.world.connect(live.fds[action.to])
        case PeerSend():
            return _send(action, live, where)
        case PeerRecv():
            return _recv(action, live, where)
        case PeerEnd():
            peer = live.peers[action.peer]
            if action.close:
                peer.close()
            else:
                peer.shutdown()
        case CloseFd():
            ring.world.close(live.fds[action.fd])
        case Register():
            return _refused(lambda: live.register(action.programs, on), action.errno, where)
        case Unregister():
            return _refused(on.requests.unregister_bpf, action.errno, where)
        case Attach():
            return _refused(lambda: live.attach(action.callbacks, on), action.errno, where)
        case Detach():
            on.detach(action.callbacks)
        case Enter():
            return _enter(action, live, on, progress, where)
        case Enable():
            return _refused(on.loop.enable, action.errno, where)
        case Signal():
            on.loop.core.signal()
        case Later():
            later = replace(step, action=action.action)
            on.loop.at(action.delay_ns, lambda: _step(later, live, progress))
        case NetworkChange():
            live.change_network(action)
        case FilterSpec():
            return _registered(action, ring, where)
        case Check():
            return list(compare(action.expect, live, progress.cqes, where))
    return []


def _enter(
    action: Enter, live: Live, on: LiveRing, progress: Progress, where: str
) -> list[Finding]:
    """A finding unless it returns, or is refused, as expected."""
    live.starts()
    result, errno = 0, 0
    try:
        result = on.loop.enter(action.to_submit, action.min_complete, action.flags)
    except RingError as error:
        errno = error.errno
    found = f"-{errno_name(errno)}" if errno else str(result)
    if (see := progress.watch(on.name)) is not None:
        see(Noted(on.ring.now_ns(), "enter", f"returned {found}"))
    if errno != action.errno:
        wanted = f"-{errno_name(action.errno)}" if action.errno else "no refusal"
        return [Finding(where, f"enter: {wanted}", found)]
    if action.result is not None and result != action.result:
        return [Finding(where, f"enter: {action.result}", found)]
    return []


def _wait(action: Wait, on: LiveRing, progress: Progress, where: str) -> list[Finding]:
    got = progress.cqes[on.name].setdefault(action.cq, [])
    for index in range(action.count):
        try:
            got.append(on.ring.wait_cqe(action.timeout_ns, action.cq))
        except TimeoutError:
            wanted = f"{action.count} CQEs on CQ {action.cq} in time"
            return [Finding(where, wanted, f"{index} until the timeout")]
    return []


def register_filters(scenario: Scenario, registrar: Registrar, scope: Scope) -> list[Finding]:
    """Register what the scenario begins with on a task, or on the ring."""
    found = []
    for index, spec in enumerate(scenario.filters):
        if spec.scope is scope:
            where = f"{scenario.path}: filters[{index}]"
            with placed(scenario, where):
                found += _registered(spec, registrar, where)
    return found


def _registered(spec: FilterSpec, registrar: Registrar, where: str) -> list[Finding]:
    return _refused(lambda: registrar.register_filter(spec.wanted), spec.errno, where)


def _refused(call: Callable[[], object], wanted: int, where: str) -> list[Finding]:
    """Call; a finding unless it is refused with `wanted` (0: not at all)."""
    errno = 0
    try:
        call()
    except (RingError, LoadRejected) as error:
        if not wanted:
            raise
        errno = error.errno
    if errno == wanted:
        return []
    found = f"-{errno_name(errno)}" if errno else "success"
    return [Finding(where, f"refusal with -{errno_name(wanted)}", found)]


def _send(action: PeerSend, live: Live, where: str) -> list[Finding]:
    data = live.render(action.content)
    peer, sent = live.peers[action.peer], 0
    for _ in range(_PEER_TRIES):
        sent += peer.send(data[sent:])
        if sent == len(data):
            return []
        live.ring.run_until_idle(_PEER_TRY_NS)
    return [Finding(where, f"{len(data)} bytes sent", f"{sent}, then nobody received")]


def _awaits(peer: str | None, live: Live) -> bool:
    """Whether the peer connects in a step that comes later, and has not come."""
    return peer is not None and peer not in live.peers


def _recv(action: PeerRecv, live: Live, where: str) -> list[Finding]:
    wanted = live.render(action.content)
    peer, got = live.peers[action.peer], b""
    for _ in _tries(action):
        if len(got) == len(wanted):
            break
        data = peer.recv(len(wanted) - len(got))
        if data == b"":
            break
        if data is None:
            live.ring.run_until_idle(_PEER_TRY_NS)
        else:
            got += data
    if got != wanted:
        if len(wanted) <= _SHOWN_BYTES:  # and no more were received
            return [Finding(where, repr(wanted), repr(got))]
        return list(differing(wanted, got, where))
    return _ended(action, live, where) if action.end else []


def _tries(action: PeerRecv) -> range:
    given = action.timeout_ns
    return range(_PEER_TRIES if given is None else max(given // _PEER_TRY_NS, 1))


def _ended(action: PeerRecv, live: Live, where: str) -> list[Finding]:
    """A finding unless the stream to this peer ends now."""
    for _ in _tries(action):
        data = live.peers[action.peer].recv(1)
        if data is not None:
            return [Finding(where, "the end of the stream", repr(data))] if data else []
        live.ring.run_until_idle(_PEER_TRY_NS)
    return [Finding(where, "the end of the stream", "nothing")]
