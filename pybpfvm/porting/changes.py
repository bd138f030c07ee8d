"""What must change in a program of 2021 before it drives a ring from `loop_step`, and why.

abi/iouring-bpf-2021, sections 2.4 and 3; abi/iouring-bpf-upstream, sections 1.4, 2 and 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pybpfvm.porting.places import Places
from pybpfvm.porting.survey import Does, Fact, Survey, Values, names_another, user_pointers
from pybpfvm.profiles.base import Profile
from pybpfvm.uring_backend.abi import OP_LAST, SQE_ANY_LINK, SQE_IO_DRAIN, Op
from pybpfvm.verifier.environment import GPL_COMPATIBLE

_FULL_USER_DATA = 1 << 56


@dataclass(frozen=True, slots=True)
class Change:
    """One thing to change. `topic` groups, `places` say where ("line 82")."""

    topic: str
    text: str
    places: tuple[str, ...] = ()


def changes(seen: Survey, target: Profile, others: int = 0) -> tuple[Change, ...]:
    """What must change in the program that was surveyed; `others`: how many programs more its
    object has."""
    places = Places(seen.program)
    found = [
        *_start(seen, places, others),
        *_waiting(seen, places),
        *_queues(seen, places),
        *_requests(seen, places),
        *_user_memory(seen, places),
        *_helpers(seen, places, target),
    ]
    if seen.maps:
        stay = f"{', '.join(seen.maps)}: maps and globals stay as they are"
        found.append(Change("maps", stay))
    if seen.program.license not in GPL_COMPATIBLE:
        text = f"{seen.program.license or 'none'!r} is no licence that struct_ops programs may have"
        found.append(Change("licence", text))
    found += _not_known(seen, places)
    return tuple(found)


def _at(places: Places, facts: Iterable[Fact]) -> tuple[str, ...]:
    ordered = sorted((fact.pc for fact in facts), key=places.order)
    return tuple(dict.fromkeys(places.text(pc) for pc in ordered))


def _start(seen: Survey, places: Places, others: int) -> Iterator[Change]:
    yield Change(
        "start",
        "there are no BPF requests and no registered table: the program becomes the loop_step of a "
        "struct_ops io_uring_bpf_ops, attached to one ring, and runs inside io_uring_enter",
    )
    yield Change(
        "start",
        "the ring needs IORING_SETUP_DEFER_TASKRUN (with SINGLE_ISSUER), may not have SQPOLL or "
        "IOPOLL, and has one CQ; SQ_REWIND and NO_SQARRAY make submitting simple",
    )
    if others:
        yield Change(
            "start",
            f"a ring has one loop_step, and the object has {others + 1} programs: give each a "
            "ring, or let one step call what the next completion is for",
        )
    reads = seen.of(Does.READ_USER_DATA)
    if reads:
        yield Change(
            "start",
            "ctx->user_data is gone with the request: the host writes it to the MEM region, or to "
            "a global variable",
            _at(places, reads),
        )
    ends = seen.of(Does.FINISH)
    if ends:
        yield Change(
            "end",
            "return LOOP_STOP ends io_uring_enter (with 0); there is no CQE of the request's own, "
            "so tell the host in memory. Any value but 0 and 1 is -EINVAL",
            _at(places, ends),
        )


def _waiting(seen: Survey, places: Places) -> Iterator[Change]:
    for fact in seen.of(Does.WAIT):
        cq, nr = shown(fact.values["cq"]), shown(fact.values["nr"])
        yield Change(
            "waiting",
            f"the run waits for {nr} completion(s) on CQ {cq}: instead, params->cq_wait_idx = CQ "
            "head + as many, and return LOOP_CONTINUE",
            _at(places, [fact]),
        )
    if seen.of(Does.WAIT):
        yield Change(
            "waiting",
            "the index counts completions of the whole ring and is a hint: the step is called "
            "early, too, and has to look whether it has what it wants. 0 is no wait; an index "
            "that no request in flight reaches sleeps until a signal",
        )


def _queues(seen: Survey, places: Places) -> Iterator[Change]:
    named = seen.of(Does.SUBMIT, Does.EMIT, Does.REAP, Does.WAIT)
    extra = [fact for fact in named if fact.values["cq"] != frozenset({0})]
    if extra:
        known = seen.cqs
        which = "not all known" if known is None else shown(known)
        yield Change(
            "CQs",
            f"one CQ is left of those it names ({which}): say in user_data what a completion is "
            "for, and sort them into queues of the program's own",
            _at(places, extra),
        )
    reaps = seen.of(Does.REAP)
    if reaps:
        yield Change(
            "CQs",
            "taking a completion is a load from the CQ region and a store to its head; between "
            "two steps it is the program that owns the head, not the host",
            _at(places, reaps),
        )
    emits = seen.of(Does.EMIT)
    if emits:
        yield Change(
            "CQs",
            "nothing posts completions without a request: for the host, write results to memory "
            "and return LOOP_STOP; between programs, use a queue in a map or a global",
            _at(places, emits),
        )


def _requests(seen: Survey, places: Places) -> Iterator[Change]:
    bpf = seen.profile.ring.bpf_opcode if seen.profile.ring is not None else -1
    submits = seen.of(Does.SUBMIT)
    for fact in submits:
        names = shown(fact.opcodes, lambda value: opcode_name(value, bpf))
        text = f"{names}: fill in an entry of the SQ region, then bpf_io_uring_submit_sqes(ring, n)"
        yield Change("requests", text, _at(places, [fact]))
        if fact.opcodes is not None and bpf in fact.opcodes:
            yield Change(
                "requests",
                "a BPF request that a program submits becomes a call of a function, or one step "
                "more (LOOP_CONTINUE without a wait)",
                _at(places, [fact]),
            )
        if names_another(fact):
            yield Change(
                "requests",
                "the request that it names has its queue in the upper bits of user_data here: "
                "named(queue, user_data) in the skeleton",
                _at(places, [fact]),
            )
        flags = fact.values["flags"]
        if flags is None or any(value & SQE_ANY_LINK for value in flags):
            yield Change(
                "requests",
                "members of a chain must be submitted by one call"
                + ("; whether this is one is not known" if flags is None else ""),
                _at(places, [fact]),
            )
        if flags is not None and any(value & SQE_IO_DRAIN for value in flags):
            yield Change("requests", "IO_DRAIN works as from user space", _at(places, [fact]))
        user_data = fact.values["user_data"]
        if user_data is None or max(user_data) >= _FULL_USER_DATA:
            known = "not known" if user_data is None else shown(user_data, hex)
            whose = fact.sources.get("user_data") or known
            yield Change(
                "requests",
                f"its user_data ({whose}) must leave room for what the completion is for; the "
                "skeleton keeps 56 bits",
                _at(places, [fact]),
            )
    if submits:
        yield Change(
            "requests",
            "the call answers how many entries were consumed, not 1 or 0; completions that come at "
            "once are in the CQ when it returns, not at the end of the run",
            _at(places, submits),
        )


def _user_memory(seen: Survey, places: Places) -> Iterator[Change]:
    for fact in seen.of(Does.FROM_USER, Does.TO_USER):
        size = shown(fact.values["size"])
        way = "read from" if fact.does is Does.FROM_USER else "written to"
        whose = fact.sources.get("address")
        source = f" at {whose}" if whose else ""
        yield Change(
            "user memory",
            f"{size} byte(s) are {way} user memory{source}: only the MEM region can be reached, "
            "which the host registers (IORING_REGISTER_MEM_REGION), by plain loads and stores",
            _at(places, [fact]),
        )
    pointing = [fact for fact in seen.of(Does.SUBMIT) if user_pointers(fact)]
    if pointing:
        yield Change(
            "user memory",
            "what requests point to stays at its user address, which the host has to tell",
            _at(places, pointing),
        )


def _helpers(seen: Survey, places: Places, target: Profile) -> Iterator[Change]:
    known = set(target.helpers.values())
    used: dict[str, list[Fact]] = {}
    for fact in seen.of(Does.HELPER):
        used.setdefault(fact.helper, []).append(fact)
    for name, facts in used.items():
        if name not in known:
            text = f"{name} is no helper of {target.name} programs"
            yield Change("helpers", text, _at(places, facts))
    kept = sorted(name for name in used if name in known)
    if kept:
        yield Change("helpers", f"{', '.join(kept)}: stay, with the numbers of today's kernels")


def _not_known(seen: Survey, places: Places) -> Iterator[Change]:
    yield Change(
        "not known",
        "how many requests of this program the host has at a time; the skeleton is for one, and "
        "several need a record each",
    )
    if not seen.complete:
        yield Change("not known", seen.why_not)
    for fact in seen.facts:
        missing = [_missing(fact, name) for name, known in fact.values.items() if known is None]
        if missing:
            text = f"{', '.join(missing)} where the program {fact.does.value}"
            yield Change("not known", text, _at(places, [fact]))


def _missing(fact: Fact, name: str) -> str:
    whose = fact.sources.get(name)
    return f"{name} ({whose})" if whose else name


def opcode_name(opcode: int, bpf_opcode: int) -> str:
    """`READ`; BPF is the ABI's own."""
    if opcode == bpf_opcode:
        return "BPF"
    return Op(opcode).name if opcode < OP_LAST else f"opcode {opcode}"


def shown(values: Values, name: object = str) -> str:
    """Values as people read them: `1 or 2`, `a number that is not known of`."""
    if values is None:
        return "? (not known)"
    assert callable(name)
    return " or ".join(str(name(value)) for value in sorted(values))
