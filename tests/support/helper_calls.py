"""Calls of helpers, right ones and nearly right ones: for each helper that a program type is
offered, the call that its row describes, the same with one argument exchanged, and the same with
something done after it that shows what the call left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

from pybpfvm import bpfsys
from pybpfvm.helpers.proto import ArgType, Helper
from pybpfvm.helpers.table import HELPERS
from pybpfvm.isa.asm import assemble
from pybpfvm.isa.insn import Insn
from pybpfvm.profiles.base import CtxHolds, CtxPointer, PacketAccess, Profile
from pybpfvm.profiles.mainline import NUMBERS
from pybpfvm.program import BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG, MapSpec, MapType
from pybpfvm.verifier.mapuse import offered_by_maps

VALUE_BYTES = 64
_BREAK = "\n;\n"  # no jump leads over it
_ANY_MAPS = (
    MapSpec("single", MapType.ARRAY, 4, VALUE_BYTES, 1),
    MapSpec("fixed", MapType.ARRAY, 4, VALUE_BYTES, 1, flags=BPF_F_RDONLY_PROG),
    MapSpec("sink", MapType.ARRAY, 4, VALUE_BYTES, 1, flags=BPF_F_WRONLY_PROG),
    MapSpec("hash", MapType.HASH, 8, 48, 4),
    MapSpec("percpu", MapType.PERCPU_ARRAY, 4, 16, 2),
    MapSpec("lru", MapType.LRU_HASH, 8, 16, 16),
    MapSpec("jumps", MapType.PROG_ARRAY, 4, 4, 4),
    MapSpec("events", MapType.PERF_EVENT_ARRAY, 4, 4, 4),
    MapSpec("stacks", MapType.STACK_TRACE, 4, 80, 4),
    MapSpec("cgroups", MapType.CGROUP_ARRAY, 4, 4, 4),
    MapSpec("devices", MapType.DEVMAP, 4, 4, 4),
    MapSpec("cpus", MapType.CPUMAP, 4, 4, 1),
    MapSpec("xsks", MapType.XSKMAP, 4, 4, 4),
    MapSpec("socks", MapType.SOCKMAP, 4, 4, 4),
    MapSpec("sockhash", MapType.SOCKHASH, 8, 4, 4),
    MapSpec("group", MapType.REUSEPORT_SOCKARRAY, 4, 8, 4),
    MapSpec("queue", MapType.QUEUE, 0, 16, 4),
    MapSpec("bloom", MapType.BLOOM_FILTER, 0, 16, 4),
    MapSpec("ring", MapType.RINGBUF, 0, 0, 4096),
    MapSpec("user_ring", MapType.USER_RINGBUF, 0, 0, 4096),
    MapSpec("devhash", MapType.DEVMAP_HASH, 4, 4, 4),
)


def maps() -> tuple[MapSpec, ...]:
    """The maps that calls use: those that the running kernel makes."""
    made = []
    for spec in _ANY_MAPS:
        try:
            bpfsys.map_create(
                spec.type, spec.key_size, spec.value_size, spec.max_entries, flags=spec.flags
            ).close()
        except OSError:
            continue
        made.append(spec)
    return tuple(made)


@dataclass(frozen=True, slots=True)
class Call:
    """A program around one call; `what` says which and how. Its text names maps by `indices`."""

    what: str
    text: str
    indices: Mapping[str, int]

    @property
    def insns(self) -> tuple[Insn, ...]:
        """The program, assembled."""
        parts = self.text.split(_BREAK)
        names = tuple(self.indices)
        return tuple(insn for part in parts for insn in _assembled(part, names))


@cache
def _assembled(text: str, maps_in_order: tuple[str, ...]) -> tuple[Insn, ...]:
    if not text.strip():
        return ()
    indices = {name: index for index, name in enumerate(maps_in_order)}
    return assemble(text, where="call", calls=NUMBERS, maps=indices)


class Caller:
    """Makes the calls of one program type."""

    def __init__(self, profile: Profile, specs: tuple[MapSpec, ...]) -> None:
        self.profile = profile
        self._maps = {spec.name: spec for spec in specs}
        self._indices = {spec.name: index for index, spec in enumerate(specs)}
        self._prelude, self._has = _prelude(profile)
        self._other = tuple(self._others())

    def calls(self, name: str, wanted: Callable[[], bool] = lambda: True) -> Iterator[Call]:
        """The calls of one helper; each is asked for before it is made."""
        helper = HELPERS[name]
        args = helper.args_for(self.profile.name, self.profile.attach_type)
        if ArgType.PTR_TO_FUNC in args:
            return
        for used in self._fitting(name) if ArgType.CONST_MAP_PTR in args else ("",):
            right = [self._right(helper, number, kind, used) for number, kind in enumerate(args)]
            for tail, text in _TAILS.items():
                if tail == "packet" and "packet" not in self._has:
                    continue
                if wanted():
                    yield self._call(helper, right, f"{used} then {tail}", text)
            for number in range(len(args)):
                for other, text in self._other:
                    if not wanted():
                        continue
                    changed = [*right]
                    changed[number] = text
                    yield self._call(helper, changed, f"{used} r{number + 1} = {other}", _PLAIN)

    def _fitting(self, helper: str) -> list[str]:
        fitting = [
            spec.name
            for spec in self._maps.values()
            if helper in offered_by_maps(spec.type) and spec.name not in ("fixed", "sink")
        ]
        return fitting or ["hash"]

    def _right(self, helper: Helper, index: int, kind: ArgType, used: str) -> str:
        number = index + 1
        if kind is ArgType.CONST_MAP_PTR:
            return f"r{number} = map[{used}] ll"
        if kind in (ArgType.PTR_TO_CTX, ArgType.PTR_TO_CTX_OR_NULL):
            return f"r{number} = r6"
        if kind in (ArgType.CONST_SIZE, ArgType.CONST_SIZE_OR_ZERO):
            return f"r{number} = 16"
        if kind is ArgType.CONST_ALLOC_SIZE_OR_ZERO:
            return f"r{number} = 16"
        if kind is ArgType.PTR_TO_CONST_STR:
            return f"r{number} = r9"
        if kind is ArgType.ANYTHING:
            return f"r{number} = 0"
        if kind.name.endswith(("SOCK_COMMON", "SOCKET_OR_NULL")):
            return f"r{number} = r8" if "socket" in self._has else f"r{number} = r6"
        return f"r{number} = r10\nr{number} += -64"

    def _others(self) -> Iterator[tuple[str, str]]:
        """Things to pass instead: what they are, and code with N for the register."""
        yield "NULL", "rN = 0"
        yield "8", "rN = 8"
        yield "a number", "rN = *(u64 *)(r9 + 0)"
        yield "a bounded number", "rN = *(u64 *)(r9 + 0)\nrN &= 31"
        yield "the context", "rN = r6"
        yield "the context + 4", "rN = r6\nrN += 4"
        yield "the stack's end", "rN = r10\nrN += -8"
        yield "an odd place of the stack", "rN = r10\nrN += -63"
        yield "a map value", "rN = r9"
        yield "the middle of a map value", "rN = r9\nrN += 56"
        yield "a constant map value", "rN = map[fixed][0] + 0 ll"
        yield "a map value to write", "rN = map[sink][0] + 0 ll"
        for used in ("hash", "queue", "ring", "socks", "events", "devices"):
            if used in self._maps:
                yield f"map {used}", f"rN = map[{used}] ll"
        yield "an uninitialised register", ""
        if "packet" in self._has:
            yield "the packet", "rN = r7"
            yield "the packet, behind what is known", "rN = r7\nrN += 60"
        if "socket" in self._has:
            yield "a socket", "rN = r8"

    def _call(self, helper: Helper, args: list[str], what: str, tail: str) -> Call:
        lines = [self._prelude]
        lines += [text.replace("rN", f"r{number}") for number, text in enumerate(args, 1)]
        lines += [f"call {helper.name}", tail]
        text = _BREAK.join(lines)
        return Call(f"{self.profile.name}: {helper.name} {what}", text, self._indices)


_PLAIN = "r0 = 1\nexit"
# What is done after the call. r9 is a map value of 64 bytes, the stack at r10-64 was zeroed.
_TAILS: Mapping[str, str] = {
    "exit": _PLAIN,
    "the stack is known": f"r1 = *(u64 *)(r10 - 64)\nr9 += r1\n*(u64 *)(r9 + 56) = 0\n{_PLAIN}",
    "behind it is known": f"r1 = *(u64 *)(r10 - 32)\nr9 += r1\n*(u64 *)(r9 + 56) = 0\n{_PLAIN}",
    "packet": f"r1 = *(u8 *)(r7 + 0)\n{_PLAIN}",
    "the context": f"r1 = r6\nr1 = *(u32 *)(r6 + 16)\n{_PLAIN}",
    "read": f"r1 = *(u32 *)(r0 + 4)\n{_PLAIN}",
    "read if not NULL": f"if r0 == 0 goto +1\nr1 = *(u32 *)(r0 + 4)\n{_PLAIN}",
    "write if not NULL": f"if r0 == 0 goto +1\n*(u32 *)(r0 + 4) = 0\n{_PLAIN}",
    "release": f"if r0 == 0 goto +2\nr1 = r0\ncall sk_release\n{_PLAIN}",
    "release and read": "r7 = r0\nif r0 == 0 goto +3\nr1 = r0\ncall sk_release\n"
    f"r1 = *(u32 *)(r7 + 4)\n{_PLAIN}",
    "cast, release, read": "r8 = r0\nif r0 == 0 goto +9\nr1 = r0\ncall sk_fullsock\nr7 = r0\n"
    "r1 = r8\nif r7 == 0 goto +1\nr0 = *(u32 *)(r7 + 4)\ncall sk_release\n"
    f"r0 = 1\n{_PLAIN}",
    "cast, release, read the cast": "r8 = r0\nif r0 == 0 goto +8\nr1 = r0\ncall tcp_sock\n"
    "r7 = r0\nr1 = r8\ncall sk_release\nif r7 == 0 goto +1\n"
    f"r0 = *(u32 *)(r7 + 4)\n{_PLAIN}",
    "as an offset": "if r0 s< 0 goto +4\nif r0 > 56 goto +3\nr9 += r0\n*(u8 *)(r9 + 0) = 0\n"
    f"r0 = 1\n{_PLAIN}",
    "as a length": f"if r0 s< 0 goto +3\nr9 += r0\n*(u8 *)(r9 + 0) = 0\nr0 = 1\n{_PLAIN}",
    "submit": f"if r0 == 0 goto +3\nr1 = r0\nr2 = 0\ncall ringbuf_submit\n{_PLAIN}",
    "r1 again": f"r2 = r1\n{_PLAIN}",
    "as it is": "exit",
}


def _prelude(profile: Profile) -> tuple[str, frozenset[str]]:
    """r6 the context, r9 a map value of 64 bytes, zeros at r10-64; where the type has them, r7 a
    packet of which 64 bytes are known, r8 a socket."""
    has = set()
    lines = ["r6 = r1", "r9 = map[single][0] + 0 ll"]
    lines += [f"*(u64 *)(r10 - {off}) = 0" for off in range(64, 0, -8)]
    fields = {one.holds: one for one in profile.ctx_fields}
    if profile.packet_access is not PacketAccess.NONE:
        begin, end = fields[CtxHolds.DATA], fields[CtxHolds.DATA_END]
        width = "u32" if begin.size == 4 else "u64"
        lines += [
            f"r7 = *({width} *)(r6 + {begin.offset})",
            f"r8 = *({width} *)(r6 + {end.offset})",
            "r1 = r7",
            "r1 += 64",
            "if r1 <= r8 goto +2",
            "r0 = 1",
            "exit",
        ]
        has.add("packet")
    for one in profile.ctx_fields:
        if one.pointer in _SOCKET_POINTERS:
            lines += [f"r8 = *(u64 *)(r6 + {one.offset})"]
            if one.pointer is not CtxPointer.SOCKET:
                lines += ["if r8 != 0 goto +2", "r0 = 1", "exit"]
            has.add("socket")
            break
    return "\n".join(lines), frozenset(has)


_SOCKET_POINTERS = (
    CtxPointer.SOCKET,
    CtxPointer.SOCKET_OR_NULL,
    CtxPointer.SOCK_COMMON_OR_NULL,
)
