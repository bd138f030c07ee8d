"""The skeleton in C of what a program of 2021 becomes: its calls in the order of its source, on top
of `io_uring_port.h`. What decides between them is not translated: TODO marks it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from pybpfvm.bits import round_up_pow2, s32
from pybpfvm.porting.changes import opcode_name, shown
from pybpfvm.porting.places import Places
from pybpfvm.porting.survey import Does, Fact, Survey, names_another
from pybpfvm.uring_backend.abi import SQE_ANY_LINK
from pybpfvm.verifier.environment import GPL_COMPATIBLE
from pybpfvm.verifier.usermemory.origin import Source

_LICENCE = "Dual MIT/GPL"
_UNKNOWN_BYTES = 64  # of a copy whose size is not known
_MAX_BYTES = 1 << 16
_LEAST_QUEUES, _MOST_QUEUES = 2, 64
_SIGNED = ("fd",)
# Where numbers of the old program are found in the new one.
_HELD = {
    Source.USER_DATA.value: "shared->user_data",
    Source.CQE_USER_DATA.value: "done.user_data",
    Source.CQE_RES.value: "done.res",
}
_HEX = ("flags", "op_flags")
# Fields of an entry in the order of the C struct, without what `next_sqe` sets.
_FIELDS = (
    "flags",
    "ioprio",
    "fd",
    "off",
    "addr",
    "len",
    "op_flags",
    "buf_index",
    "personality",
    "file_index",
)


@dataclass(frozen=True, slots=True)
class Piece:
    """A line of the old program and what stands in its place: `old` is C of its source, or words
    where there is none; `new` are lines of C, without the indentation of the function."""

    place: str
    old: str
    new: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Skeleton:
    """`text` is a C file; `pieces` are what is in its function, beside the old lines."""

    name: str
    text: str
    pieces: tuple[Piece, ...]


def skeleton(seen: Survey, target: str) -> Skeleton:
    """What the program that was surveyed becomes."""
    return _Writer(seen, target).write()


class _Writer:
    def __init__(self, seen: Survey, target: str) -> None:
        self._seen = seen
        self._target = target
        self._places = Places(seen.program)
        ring = seen.profile.ring
        assert ring is not None
        self._bpf = ring.bpf_opcode
        self._shared: list[str] = []
        self._state: list[str] = []
        self._names: set[str] = set()

    def write(self) -> Skeleton:
        seen, name = self._seen, self._seen.program.name
        ends = seen.of(Does.WAIT, Does.FINISH)
        facts = [fact for fact in seen.facts if fact not in ends and fact.does is not Does.HELPER]
        facts.sort(key=lambda fact: self._places.order(fact.pc))
        pieces = [self._piece(fact, tuple(self._code(fact))) for fact in facts]
        pieces = _by_line([*pieces, *self._ends()])
        body = [f"\t{line}" for piece in pieces for line in self._commented(piece)]
        text = "\n".join([*self._head(), *self._declared(), *body, "}", "", *self._tail(), ""])
        return Skeleton(name, text, tuple(pieces))

    def _head(self) -> Iterator[str]:
        seen = self._seen
        source = self._places.file or "its object"
        licence = seen.program.license
        yield "/*"
        was = f"{seen.program.name} of {source} ({seen.profile.name})"
        yield f" * {was} for {self._target}: a skeleton."
        yield " * Its calls are in the order of the source; what decides between them is yours."
        yield " * TODO marks what is not known, or not translated."
        if not seen.complete:
            yield f" * Not complete: {_comment(seen.why_not)}."
        yield " */"
        yield f"#define PORT_QUEUES {self._queues()}"
        yield '#include "io_uring_port.h"'
        yield ""
        yield f'LICENSE("{licence if licence in GPL_COMPATIBLE else _LICENCE}");'
        yield ""

    def _queues(self) -> int:
        """A power of two above every CQ that is named."""
        named = [0]
        for fact in self._seen.of(Does.SUBMIT, Does.EMIT, Does.REAP, Does.WAIT):
            named += [cq for cq in fact.values["cq"] or () if cq < _MOST_QUEUES]
        unknown = self._seen.cqs is None
        return max(_LEAST_QUEUES, round_up_pow2(max(named) + 1 + unknown))

    def _declared(self) -> Iterator[str]:
        yield "/* What the host registers as the MEM region, and reads and writes itself. */"
        yield "struct shared {"
        yield "\tu64 user_data; /* of the BPF request */"
        yield from (f"\t{line}" for line in self._shared)
        yield "};"
        yield ""
        yield "/* The program's own: the host can not change it between two looks. */"
        yield "struct state {"
        waits = len(self._seen.of(Does.WAIT))
        if waits > 1:
            yield f"\tu32 wait; /* TODO: which of {waits} waits comes next; 0: the end */"
        else:
            yield "\tu32 over; /* TODO: set it when there is nothing to wait for any more */"
        yield from (f"\t{line}" for line in self._state)
        yield "} state;"
        yield ""
        yield f"PORT_STEP({self._seen.program.name}, struct shared)"
        yield "{"
        kinds = {fact.does for fact in self._seen.facts}
        if Does.REAP in kinds:
            yield "\tstruct cqe done;"
        if any(not self._only_bpf(fact) for fact in self._seen.of(Does.SUBMIT)):
            yield "\tstruct sqe *entry;"
        yield ""

    def _tail(self) -> Iterator[str]:
        yield f"RING_OPS({self._seen.program.name}_ops, {self._seen.program.name});"

    def _commented(self, piece: Piece) -> Iterator[str]:
        if piece.old:
            yield f"/* {piece.place}: {_comment(piece.old)} */"
        yield from piece.new

    def _piece(self, fact: Fact, new: tuple[str, ...]) -> Piece:
        line = self._places.line(fact.pc)
        old = fact.does.value if line is None else line.text.strip()
        return Piece(self._places.text(fact.pc), old, new)

    # --- one call ---------------------------------------------------------------------------

    def _code(self, fact: Fact) -> Iterator[str]:
        match fact.does:
            case Does.READ_USER_DATA:
                yield "/* shared->user_data */"
            case Does.SUBMIT:
                yield from self._submit(fact)
            case Does.REAP:
                yield f"if (!pop({self._queue(fact)}, &done)) {{"
                yield f"\t/* TODO: what is done with it, {self._places.text(fact.pc)} */"
                yield "}"
            case Does.EMIT:
                numbers = ", ".join(
                    self._number(fact, name) for name in ("user_data", "res", "flags")
                )
                yield f"push({self._queue(fact)}, {numbers});"
            case Does.FROM_USER:
                name = self._copied(fact, "read")
                yield f"__builtin_memcpy(state.{name}, shared->{name}, sizeof(state.{name}));"
            case _:
                name = self._copied(fact, "write")
                yield f"/* TODO: what to write goes into state.{name} first */"
                yield f"__builtin_memcpy(shared->{name}, state.{name}, sizeof(state.{name}));"

    def _only_bpf(self, fact: Fact) -> bool:
        return fact.opcodes == frozenset({self._bpf})

    def _submit(self, fact: Fact) -> Iterator[str]:
        names = shown(fact.opcodes, lambda value: opcode_name(value, self._bpf))
        if self._only_bpf(fact):
            yield "/* TODO: was a BPF request: call what that program has become */"
            return
        yield f"entry = next_sqe(turn, {self._queue(fact)}, {self._number(fact, 'user_data')});"
        yield "if (entry) {"
        known = sorted((fact.opcodes or frozenset()) - {self._bpf})
        several = fact.opcodes is None or len(fact.opcodes) > 1
        note = f"TODO: {names}" if several else names
        yield f"\tentry->opcode = {known[0] if known else 0}; /* {note} */"
        for name in _FIELDS:
            if name == "addr" and names_another(fact):
                yield f"\tentry->addr = named({self._queue_of_named(fact)});"
            elif fact.values[name] != frozenset({0}):
                yield f"\tentry->{name} = {self._number(fact, name)};"
        yield "}"
        flags = fact.value("flags")
        if flags is None:
            yield "flush(turn); /* TODO: not between the members of a chain */"
        elif not flags & SQE_ANY_LINK:
            yield "flush(turn);"

    def _queue(self, fact: Fact) -> str:
        known = fact.value("cq")
        if known is not None and known < _MOST_QUEUES:
            return str(known)
        values = fact.values["cq"]
        first = min((cq for cq in values or () if cq < _MOST_QUEUES), default=1)
        return f"{first} /* TODO: CQ {shown(values)} */"

    def _queue_of_named(self, fact: Fact) -> str:
        """Queue and user_data of the request that this one names: one that is known to have such a
        user_data if there is any."""
        wanted = fact.values["addr"] or frozenset()
        others = self._seen.of(Does.SUBMIT)
        sure = [one for one in others if wanted & (one.values["user_data"] or frozenset())]
        found: set[int] = set()
        for one in sure or others:
            found |= one.values["cq"] or {_MOST_QUEUES}
        queue = min(found, default=_MOST_QUEUES)
        known = str(queue) if queue < _MOST_QUEUES else "1"
        todo = "" if len(found) == 1 and queue < _MOST_QUEUES else " /* TODO: its queue */"
        return f"{known}{todo}, {self._number(fact, 'addr')}"

    def _number(self, fact: Fact, name: str) -> str:
        values = fact.values[name]
        if values is None:
            whose = fact.sources.get(name)
            if whose in _HELD and (whose == Source.USER_DATA.value or self._seen.of(Does.REAP)):
                return f"{_HELD[whose]} /* TODO: perhaps with something added */"
            return f"0 /* TODO: {name}{f' is {whose}' if whose else ', not known'} */"
        first = min(values)
        if name in _SIGNED or name == "res":
            text = str(s32(first))
        elif first and (name in _HEX or first > 1 << 20):
            text = f"{first:#x}"
        else:
            text = str(first)
        text += "ull" if first >= 1 << 32 else ""
        return text if len(values) == 1 else f"{text} /* TODO: {shown(values)} */"

    def _copied(self, fact: Fact, way: str) -> str:
        """Room for a copy on both sides: its name."""
        base = name = f"{way}_{self._places.name(fact.pc)}"
        count = 1
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        values = fact.values["size"]
        size = max(values) if values else 0
        if values is None or not 0 < size <= _MAX_BYTES:
            size = _UNKNOWN_BYTES
            note = "; /* TODO: its size is not known */"
        else:
            note = ";" if len(values) == 1 else f"; /* {shown(values)} bytes */"
        self._shared.append(f"u8 {name}[{size}]{note}")
        self._state.append(f"u8 {name}[{size}];")
        return name

    # --- the end ----------------------------------------------------------------------------

    def _ends(self) -> Iterator[Piece]:
        waits, finishes = self._seen.of(Does.WAIT), self._seen.of(Does.FINISH)
        for number, fact in enumerate(waits, 1):
            nr = self._number(fact, "nr") if fact.value("nr") != 0 else "1 /* was 0 */"
            if fact.values["nr"] is None:
                nr = "1 /* TODO: nr, not known */"
            call = f"return wait_for(turn, {self._queue(fact)}, {nr});"
            if finishes or fact is not waits[-1]:
                when = "!state.over" if len(waits) == 1 else f"state.wait == {number}"
                yield self._piece(fact, (f"if ({when})", f"\t{call}"))
            else:
                yield self._piece(fact, (call,))
        if finishes:
            yield self._piece(finishes[-1], ("return finish(turn, shared->user_data);",))
        elif not waits:
            yield Piece("", "", ("return finish(turn, shared->user_data);",))


def _by_line(pieces: Sequence[Piece]) -> list[Piece]:
    """The pieces, those that follow one another for the same old line as one."""
    return [
        Piece(place, old, tuple(line for piece in same for line in piece.new))
        for (place, old), same in groupby(pieces, lambda piece: (piece.place, piece.old))
    ]


def _comment(text: str) -> str:
    """Text that can stand in a comment."""
    return " ".join(text.split()).replace("*/", "* /").replace("/*", "/ *")
