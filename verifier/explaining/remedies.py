"""What an error means and what to write instead: one function for each rule that has more to say
than the place that refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pybpfvm.btf.types import Func, FuncProto
from pybpfvm.errors import SourceLine
from pybpfvm.helpers.proto import ArgType
from pybpfvm.helpers.table import HELPERS
from pybpfvm.isa.codec import target_pc
from pybpfvm.isa.disasm import format_insn
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import STACK_BYTES, Kind
from pybpfvm.verifier import structure
from pybpfvm.verifier.checks import MAX_PACKET_OFF
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.explaining.failing_path import FailingPath
from pybpfvm.verifier.explaining.lost_bound import Lost, Need, comparison
from pybpfvm.verifier.explaining.narration import (
    bytes_text,
    helper_name,
    name_of,
    number_text,
    range_text,
    value_text,
)
from pybpfvm.verifier.explaining.slicing import CALLS, How, Link, Register
from pybpfvm.verifier.kernelobjects.kfuncs import RDWR_BUF_SIZE
from pybpfvm.verifier.states.regstate import NON_NULL, PACKET_TYPES, Reg, RegType
from pybpfvm.verifier.usermemory.origin import ADDRESSES
from pybpfvm.verifier.verdict import Finding, Rule

# `table[idx]` on a line of C: where there is one subscript, it is what went wrong.
_SUBSCRIPT = re.compile(r"\[\s*([A-Za-z_]\w*(?:(?:\.|->)\w+)*)\s*\]")
# `*p`, `p->field` or `p[i]` on a line of C.
_POINTER = re.compile(
    r"(?:(?<![\w)\]]\s)|^|(?<=[(=,;]))\s*\*\s*([A-Za-z_]\w*)|\b([A-Za-z_]\w*)->"
    r"|(?<![\w.>])([A-Za-z_]\w*)\[[^\]]*\](?!\s*(?:->|\.|\[))"
)
# `value = call(`, perhaps with a cast, on a line of C.
_RESULT = re.compile(r"\b([A-Za-z_]\w*)\s*=(?!=)\s*(?:\([^()]*\)\s*)?[A-Za-z_]\w*\s*\(")
_LOOP_STEPS = 6


@dataclass(frozen=True, slots=True)
class Advice:
    """`reason` and `suggestion` ("" leaves what is there), and `steps` (pc, note) of errors whose
    path is not that of a value."""

    reason: str = ""
    suggestion: str = ""
    steps: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Question:
    """An error with all that is known of its cause. `path` is None for errors of the code itself,
    `links` are empty where the error is about no value."""

    env: Environment
    error: Finding
    path: FailingPath | None
    links: tuple[Link, ...]
    need: Need | None
    lost: Lost | None

    @property
    def insn(self) -> Insn | None:
        """The refused instruction."""
        return self.env.code.get(self.error.pc)

    @property
    def culprit(self) -> Reg | None:
        """The refused value."""
        return None if self.path is None else self.path.refused.culprit

    @property
    def own_links(self) -> tuple[Link, ...]:
        """Those of `links` since the last callback ended: what is compared inside one bounds
        nothing outside."""
        path = self.path
        if path is None:
            return self.links
        depth = len(path.steps[-1].state.frames)
        since = 0
        for number, link in enumerate(self.links):
            ended = path.steps[link.index].state.frames[depth:] if link.index >= 0 else ()
            if any(frame.callback is not None for frame in ended):
                since = number + 1
        return self.links[since:]

    @property
    def name(self) -> str:
        """The refused register or slot."""
        return name_of(self.links[-1].place) if self.links else "the register"

    @property
    def way_out(self) -> str:
        """How the program ends early, in C: rings that call again are told to stop."""
        loop = self.env.profile.loop
        return f"return {0 if loop is None else loop.stop};"

    def line(self, pc: int) -> SourceLine | None:
        """The C line of an instruction."""
        return self.env.program.line_at(pc)

    def place(self, pc: int) -> str:
        """Where an instruction is, for people: its C line if there is one."""
        line = self.line(pc)
        return f"line {line.line}" if line is not None else f"instruction {pc}"


def advice(question: Question) -> Advice:
    """What is to be said of an error."""
    say = _SAID.get(question.error.rule)
    said = Advice() if say is None else say(question)
    if said.suggestion or question.error.suggestion:
        return said
    rule = question.error.rule.value
    shows = f"`pybpfvm explain {rule}` shows a program that does it right"
    return replace(said, suggestion=f"change {question.place(question.error.pc)}; {shows}")


# Numbers out of bounds.


def _bounds(question: Question) -> Advice:
    need = question.need
    empty = _empty(question)
    if empty is not None:
        return empty
    if need is None:
        if question.insn is not None and question.insn.spec.kind is Kind.LDDW:
            return Advice(suggestion="look the element up with bpf_map_lookup_elem instead")
        return Advice()
    culprit = need.culprit
    if not culprit.var.mask:
        if need.what == "offset":
            return _fixed_offset(question, need)
        return Advice(
            f"the {need.what} in {question.name} is {range_text(culprit.var)}, and must be "
            f"{_allowed(need)}: that is what {_room_text(question, need)} has room for",
            f"pass a smaller {need.what} at {question.place(question.error.pc)}, or make the "
            "memory larger"
            if culprit.var.smin > need.high
            else f"pass a {need.what} {_allowed(need)} at {question.place(question.error.pc)}",
        )
    reason = _why_out_of_bounds(question, need)
    check = _compare(question, need)
    if _on_stack(question, need):
        check += (
            f"; {number_text(need.high)} is only the most that stays inside the frame: a variable "
            "of the program has an end of its own, which is the right limit"
        )
    return Advice(reason, check)


def _on_stack(question: Question, need: Need) -> bool:
    """Whether the limit is the end of a frame: no one knows where variables on the stack end."""
    if need.what != "size":
        return need.what == "offset" and need.culprit.type is RegType.PTR_TO_STACK
    place = question.links[-1].place if question.links else None
    if question.path is None or not isinstance(place, Register) or place.number < 1:
        return False
    before = question.path.steps[-1].state.frame.regs[place.number - 1]
    return before.type is RegType.PTR_TO_STACK


def _room_text(question: Question, need: Need) -> str:
    if _on_stack(question, need):
        return "the frame (which may be more than the variable's own size)"
    return "the memory before it"


def _fixed_offset(question: Question, need: Need) -> Advice:
    """The offset is a constant: the program asks for bytes that are not there."""
    error, culprit = question.error, need.culprit
    place = question.place(error.pc)
    if error.rule is Rule.STACK_ACCESS:
        what = "move the access inside the array on the stack, or make the array larger"
        insn = question.insn
        if culprit.off == 0 and insn is not None and insn.off > -STACK_BYTES:
            what = "use negative offsets from r10: the stack lies below it"
        return Advice(f"{error.reason}; the offset is a constant, so every run does this", what)
    past = culprit.var.smin - need.high
    if past > 0:
        missing = f"ends {bytes_text(past)} beyond its end"
    else:
        missing = f"begins {bytes_text(need.low - culprit.var.smin)} before its beginning"
    return Advice(
        f"{_object_text(culprit)}, and the access at {place} {missing}; the offset is a constant, "
        "so every run that comes here does this",
        f"use a smaller offset or a narrower access at {place}, or make the object larger",
    )


def _object_text(culprit: Reg) -> str:
    if culprit.map is not None:
        size = culprit.map.value_size
        if culprit.type is RegType.PTR_TO_MAP_KEY:
            return f"a key of map {culprit.map.name!r} has {culprit.map.key_size} bytes"
        return f"a value of map {culprit.map.name!r} has {size} bytes"
    if culprit.mem_size:
        what = "record" if culprit.type is RegType.PTR_TO_RINGBUF_MEM else "memory"
        return f"the {what} has {bytes_text(culprit.mem_size)}"
    if culprit.type is RegType.PTR_TO_STACK:
        return f"the stack has {STACK_BYTES} bytes"
    return "the object ends before it"


def _why_out_of_bounds(question: Question, need: Need) -> str:
    what = f"the {need.what} in {question.name}"
    return (
        f"{what} is {range_text(need.culprit.var)}, and must be {_allowed(need)}; "
        f"{_why_unbounded(question, need)}"
    )


def _why_unbounded(question: Question, need: Need) -> str:
    """Where the bound was lost, which comparison leaves too much, or that there is none."""
    lost = question.lost
    if lost is not None:
        return f"{lost.note} ({question.place(lost.link.pc)})"
    tests = _comparisons(question, need)
    if not tests:
        return "no comparison on this path bounds it"
    after = tests[-1].after
    place = question.place(tests[-1].pc)
    if _lets_negative(question, tests[-1], need):
        return f"the comparison at {place} lets negative numbers pass"
    return f"the comparison at {place} lets {value_text(after)} pass"


def _comparisons(question: Question, need: Need) -> list[Link]:
    """The comparisons of what has to be bounded."""
    found = comparison(question.env, question.own_links, need, question.lost)
    since = found.link.index if found is not None else -1
    return [
        link
        for link in question.own_links
        if link.how is How.NARROWED and _number(link.after) and link.index >= since
    ]


def _lets_negative(question: Question, test: Link, need: Need) -> bool:
    """Whether what passes a comparison may be negative, in as many bits as it compares."""
    if test.after is None:
        return False
    var = test.after.var
    narrow = question.env.code[test.pc].spec.width == 32
    return (var.s32min if narrow else var.smin) < min(need.low, 0)


def _number(reg: Reg | None) -> bool:
    return reg is not None and reg.type is RegType.SCALAR_VALUE


def _allowed(need: Need) -> str:
    low = need.low
    stack = need.culprit.type is RegType.PTR_TO_STACK and need.culprit.var.smin < 0
    if need.what == "offset" and not stack and need.high >= 0:
        low = max(low, 0)
    if low == need.high:
        return f"exactly {number_text(low)}"
    return f"from {number_text(low)} to {number_text(need.high)}"


def _compare(question: Question, need: Need) -> str:
    """The comparison to write, and where."""
    error = question.error
    found = comparison(question.env, question.own_links, need, question.lost)
    if need.high < max(need.low, 0):
        return "make the object larger: no offset fits"
    if found is None:
        return (
            f"bound {question.name} before {question.place(error.pc)}: its {need.what} must be "
            f"{_allowed(need)}"
        )
    line = question.line(error.pc)
    name = name_of(found.place)
    names = set(_SUBSCRIPT.findall(line.text)) if line is not None else set()
    what = names.pop() if len(names) == 1 else name
    limit = number_text(found.high + 1)
    check = f"`if ({what} >= {limit}) {question.way_out}`"
    own_limit = need.what == "size" and found.high == need.high and _on_stack(question, need)
    if own_limit:
        below = f"{what} < {number_text(found.low)} || " if found.low > 0 else ""
        check = f"`if ({below}{what} > sizeof(the buffer)) {question.way_out}`"
    elif found.low > 0:
        check = f"`if ({what} < {number_text(found.low)} || {what} >= {limit}) {question.way_out}`"
    tests = _comparisons(question, need)
    if tests and question.lost is None:
        signed = _lets_negative(question, tests[-1], need)
        unsigned = ", as an unsigned comparison" if signed else ""
        return f"make the comparison at {question.place(tests[-1].pc)} tighter: {check}{unsigned}"
    bounded = found.link.after
    if bounded is not None and bounded.var.smin < 0:
        check += ", as an unsigned comparison,"
    set_at = question.place(found.link.pc)
    before = question.place(error.pc)
    if set_at == before:
        return f"{check} between instruction {found.link.pc}, which sets {name}, and {before}"
    named = f", which sets {name}," if what == name else ""
    return f"{check} after {set_at}{named} and before {before}"


# What a value is.


def _null(question: Question) -> Advice:
    source = _source(question, How.RESULT)
    name = question.name
    if source is None:
        return Advice(
            suggestion=f"compare {name} with 0 before {question.place(question.error.pc)}"
        )
    helper = helper_name(question.env, question.env.code[source.pc])
    why = {
        "bpf_map_lookup_elem": "it returns NULL when the map has no such element",
        "bpf_ringbuf_reserve": "it returns NULL when the ring buffer has no room",
    }.get(helper, "it returns NULL when it fails")
    reason = (
        f"{name} is what {helper} returned at {question.place(source.pc)}; {why}, and no "
        "comparison with NULL comes before this use"
    )
    called = _pointer_name(question, name)
    if called == name:
        called = _result_name(question, source.pc) or name
    here = question.place(question.error.pc)
    if called == name and question.place(source.pc) == here:
        return Advice(
            reason,
            f"keep what {helper} returns in a variable `p`, and `if (!p) {question.way_out}` "
            f"before it is used at {here}",
        )
    made = _made_at(question, name) if called == name else ""
    return Advice(
        reason,
        f"`if (!{called}) {question.way_out}` before {here}{made}",
    )


def _pointer_name(question: Question, name: str) -> str:
    """How the C line calls the pointer that it dereferences, if there is one only; else `name`."""
    line = question.line(question.error.pc)
    names = set() if line is None else set(filter(None, sum(_POINTER.findall(line.text), ())))
    return names.pop() if len(names) == 1 else name


def _result_name(question: Question, pc: int) -> str:
    """The variable that a C line gives what it calls to, if there is one only; else ""."""
    line = question.line(pc)
    names = set() if line is None else set(_RESULT.findall(line.text))
    return names.pop() if len(names) == 1 else ""


def _made_at(question: Question, name: str) -> str:
    """Which C line made the value in a register that has no name here."""
    lines = [link for link in question.links if link.index >= 0 and link.how is not How.NARROWED]
    if not lines or question.line(lines[-1].pc) is None:
        return ""
    return f"; {name} holds what {question.place(lines[-1].pc)} made"


def _source(question: Question, how: How) -> Link | None:
    return next((link for link in question.links if link.how is how), None)


def _not_a_pointer(question: Question) -> Advice:
    culprit, name = question.culprit, question.name
    if culprit is None:
        return Advice()
    if culprit.type is not RegType.SCALAR_VALUE:
        if question.error.suggestion:
            return Advice()
        return Advice(suggestion="do it on the stack or on a map value instead")
    place = question.place(question.error.pc)
    made = next((link for link in reversed(question.links) if _unmade(link)), None)
    if made is not None:
        was = value_text(made.other if made.how is How.STORED else made.before)
        reason = f"{name} was {was} until {question.place(made.pc)}, which made it a number"
        if _moves_packet(question, made):
            call = question.place(made.pc)
            reason = f"{name} was {was} until the call at {call}: the packet may have moved since"
        return Advice(reason, _pointer_again(question, made))
    copy = _copy_instead(question, name, place)
    source = question.links[0] if question.links else None
    if culprit.origin is not None and culprit.origin.source in ADDRESSES:
        return Advice()  # the refusal says already that it is an address of user space
    for link in question.links:
        if link.how is How.HELPER_WROTE:
            helper = helper_name(question.env, question.env.code[link.pc])
            wrote = f"the bytes that {helper} wrote at {question.place(link.pc)}"
            return Advice(f"{name} holds {wrote}: a number, whatever it stands for", copy)
    if source is not None and source.how is How.LOADED and source.before is not None:
        return Advice(_loaded_number(question, source.before, name, source.pc), copy)
    for link in question.links:
        if link.how is How.NARROWED and link.before is not None and link.before.type in NON_NULL:
            return Advice(
                f"{name} is NULL on this path: the comparison at {question.place(link.pc)} leads "
                "here when the pointer is NULL",
                f"turn the comparison at {question.place(link.pc)} round: the access belongs where "
                "the pointer is not NULL",
            )
    if not culprit.var.mask:
        return Advice(
            f"{name} is the number {range_text(culprit.var)}: a constant is no address that a "
            "program may use",
            f"use a pointer in {name} at {place}: to the stack, to a map value or from the context",
        )
    return Advice(
        f"{name} holds {value_text(culprit)}: memory is reached through pointers only", copy
    )


def _copy_instead(question: Question, name: str, place: str) -> str:
    """The helpers that read from an address, of those that the program may call."""
    known = set(question.env.profile.helpers.values())
    user = [f"bpf_{one}" for one in ("copy_from_user", "probe_read_user") if one in known]
    ways = [f"{' or '.join(user)} (user memory)"] if user else []
    # Ring programs get their numbers from user space.
    if "probe_read_kernel" in known and question.env.profile.ring is None:
        ways.append("bpf_probe_read_kernel (kernel memory)")
    if not ways:
        return f"do not dereference {name} at {place}: use a pointer that the program was given"
    return f"copy from that address with {', or '.join(ways)} instead of using {name} at {place}"


def _unmade(link: Link) -> bool:
    """Whether a pointer became a number here."""
    if link.how is How.STORED:
        was, now = link.other, link.after
    elif link.how in (How.COMPUTED, How.COPIED, How.CHANGED):
        was, now = link.before, link.after
    else:
        return False
    pointer = was is not None and was.type not in _NO_POINTERS
    return pointer and (now is None or now.type is RegType.SCALAR_VALUE)


def _loaded_number(question: Question, pointer: Reg, name: str, pc: int) -> str:
    at = question.place(pc)
    if pointer.type is RegType.PTR_TO_CTX and question.env.profile.ring is not None:
        return (
            f"{name} was read from the context at {at}: if it is an address, then one of user "
            "space, which programs can not dereference"
        )
    if pointer.type is RegType.PTR_TO_MAP_VALUE:
        return f"{name} was read from a map value at {at}: a number, even if a pointer was stored"
    return f"{name} was read from memory at {at}: a number, even if it is an address somewhere"


def _pointer_again(question: Question, made: Link) -> str:
    if _moves_packet(question, made):
        return f"read data and data_end from the context again after {question.place(made.pc)}"
    if question.env.code[made.pc].spec.kind in CALLS:
        return f"do not use it after {question.place(made.pc)}"
    return f"keep the pointer whole: change a copy of it at {question.place(made.pc)} instead"


def _moves_packet(question: Question, made: Link) -> bool:
    """Whether it is a call that pointers into the packet do not outlive."""
    call = question.env.code[made.pc].spec.kind in CALLS
    return call and made.before is not None and made.before.type in PACKET_TYPES


def _packet(question: Question) -> Advice:
    culprit = question.culprit
    if culprit is None:
        return Advice()
    access = _PACKET_BYTES.search(question.error.message)
    needed = culprit.off if access is None else int(access[1]) + int(access[2])
    tests = [link for link in question.links if link.how is How.NARROWED]
    name, place = question.name, question.place(question.error.pc)
    if culprit.var.smin < 0 or question.error.message.startswith(f"R{name[1:]} min value"):
        return Advice(
            f"what was added to the packet pointer in {name} may be negative "
            f"({range_text(culprit.var)})",
            f"make the offset unsigned, or mask it, before it is added; used at {place}",
        )
    if culprit.var.umax + needed > MAX_PACKET_OFF:
        return _packet_too_far(question, culprit, needed)
    if culprit.range:
        last = tests[-1] if tests else None
        where = f" (at {question.place(last.pc)})" if last is not None else ""
        reason = (
            f"the comparison with data_end{where} covers {culprit.range} bytes from the pointer's "
            f"base, and this access needs {needed}"
        )
    elif culprit.var.mask:
        reason = (
            f"{name} has a variable offset ({range_text(culprit.var)}), and was not compared with "
            "data_end after that was added"
        )
    else:
        reason = f"{name} was never compared with data_end on this path: the packet may be shorter"
    # The end of the access: from the packet's beginning, or from the register if that is a
    # variable distance away.
    base, reach = "data", needed
    if culprit.var.mask:
        base, reach = _moved_pointer(question, name), needed - culprit.off
    made = _made_at(question, name) if base == name else ""
    last_byte = base if reach == 0 else f"{base} {'+' if reach > 0 else '-'} {abs(reach)}"
    if access is None:
        last_byte = f"{base} + the bytes needed"
    check = f"`if ({last_byte} > data_end) {question.way_out}`"
    return Advice(reason, f"{check} on every path to {place}{made}")


def _moved_pointer(question: Question, name: str) -> str:
    """How the C line calls a pointer with a variable offset; `name` where it is not sure to be that
    variable: constants were added since, or the line itself adds to it."""
    here = question.line(question.error.pc)
    moved = [link for link in question.links if link.how is How.COMPUTED][-1:]
    if not moved or moved[0].other is None or not moved[0].other.var.mask:
        return name
    there = question.line(moved[0].pc)
    if here is None or there is None or (there.file, there.line) == (here.file, here.line):
        return name
    called = _pointer_name(question, name)
    return name if called == name else f"(void *){called}"


_PACKET_BYTES = re.compile(r"\boff=(-?\d+) size=(\d+)")


def _packet_too_far(question: Question, culprit: Reg, needed: int) -> Advice:
    """The offset is beyond what comparisons with the packet's end are counted for."""
    name, place = question.name, question.place(question.error.pc)
    end = culprit.var.umax + needed
    return Advice(
        f"the access through {name} may end {bytes_text(end)} into the packet, and comparisons "
        f"with data_end count for the first {MAX_PACKET_OFF} bytes only: no packet is longer",
        f"first bound the offset that {name} is made with, or the number of turns of the loop that "
        f"advances it, so that the access ends within {MAX_PACKET_OFF} bytes, then compare with "
        f"data_end; both before {place}",
    )


def _uninit_reg(question: Question) -> Advice:
    if not question.links:
        return Advice()
    first, name = question.links[0], question.name
    place = question.place(question.error.pc)
    if first.how is How.CLOBBERED:
        call = question.place(first.pc)
        return Advice(
            f"the call at {call} leaves nothing in r1 to r5, and {name} is read afterwards",
            f"keep the value in r6 to r9 or on the stack over the call at {call}, or set {name} "
            f"again before {place}",
        )
    if first.how is How.RESULT:
        helper = helper_name(question.env, question.env.code[first.pc])
        return Advice(
            f"{helper} returns nothing, so r0 holds nothing after {question.place(first.pc)}",
            f"set r0 before {place}",
        )
    if name == "r0" and question.insn is not None and question.insn.spec.kind is Kind.EXIT:
        return Advice(
            "the program ends without having set its return value in r0 on this path",
            f"return a value on every path: set r0 before {place}",
        )
    return Advice(
        f"{name} is read at {place}, and nothing was written to it on this path",
        f"give {name} a value on every path before {place}",
    )


def _stack_uninit(question: Question) -> Advice:
    culprit = question.culprit
    if culprit is None or not question.links:
        return Advice()
    size = _size_of_output(question)
    if size is not None and question.insn is not None:
        place = question.place(question.error.pc)
        helper = helper_name(question.env, question.insn)
        return Advice(
            f"{helper} at {place} fills this buffer, but its size is not a constant "
            f"({range_text(size.var)}), so bytes of it may stay as they are; then the whole buffer "
            f"must have been written before, and {question.error.reason}",
            f"clear the whole buffer before {place} (= {{}} or memset), or pass a constant size",
        )
    return Advice(
        f"{question.error.reason}: what lies there is left over from others, and kernels refuse "
        "to let programs read it",
        "initialise the whole variable before "
        f"{question.place(question.error.pc)}, padding included (= {{}} or memset)",
    )


_BUFFER = re.compile(r"\bstack R(\d)\b")


def _size_of_output(question: Question) -> Reg | None:
    """The size, if it is no constant, of a buffer that a helper was to fill."""
    insn, named = question.insn, _BUFFER.search(question.error.message)
    if insn is None or insn.spec.kind is not Kind.CALL or question.path is None or named is None:
        return None
    helper = HELPERS.get(question.env.profile.helpers.get(insn.imm, ""))
    number = int(named[1])
    if helper is None or not 1 <= number < len(helper.args):
        return None
    if helper.args[number - 1] is not ArgType.PTR_TO_UNINIT_MEM:
        return None
    size = question.path.steps[-1].state.frame.regs[number + 1]
    return size if size.type is RegType.SCALAR_VALUE and size.var.mask else None


def _return_value(question: Question) -> Advice:
    need = question.need
    if need is None:
        end = question.place(question.error.pc)
        return Advice(suggestion=f"return a number: set r0 to one before {end}")
    reason = (
        f"programs of {question.env.profile.name} return a number "
        f"{'from ' if need.low != need.high else ''}{_allowed_range(need)}, and r0 is "
        f"{range_text(need.culprit.var)}"
    )
    lost = question.lost
    if lost is not None:
        reason += f"; {lost.note} ({question.place(lost.link.pc)})"
    return Advice(
        reason,
        f"return a constant from {_allowed_range(need)}, or compare r0 with the limits before "
        f"{question.place(question.error.pc)}",
    )


def _allowed_range(need: Need) -> str:
    return str(need.low) if need.low == need.high else f"{need.low} to {need.high}"


def _pointer_arith(question: Question) -> Advice:
    culprit = question.culprit
    if culprit is None:
        return Advice()
    text = format_insn(question.insn, question.error.pc) if question.insn is not None else ""
    if culprit.type in NON_NULL:
        return Advice(
            f"{question.name} may be NULL, and NULL plus an offset would no longer compare equal "
            "to NULL",
            f"compare {question.name} with NULL before {question.place(question.error.pc)}",
        )
    return Advice(
        f"{question.name} is {value_text(culprit)}, and `{text}` would not leave a pointer: only "
        "adding and subtracting numbers, in 64 bits, does",
        "add a number to the pointer instead; the difference of two pointers, in 64 bits, is one",
    )


def _pointer_bounds(question: Question) -> Advice:
    need = question.need
    if need is None:
        return Advice(
            suggestion="" if question.error.suggestion else "add a number closer to 0, or mask it"
        )
    target = next((reg for reg in _operands(question) if reg.type not in _NO_POINTERS), None)
    reason = _why_out_of_bounds(question, need)
    room = None if target is None else _room_after(question, target)
    if target is None or room is None or room < 1:
        return Advice(reason, _compare(question, need))
    # The kernel's bounds for sums are wide; what people mean are those of the object.
    inside = Need(0, room - 1, need.culprit)
    reason = (
        f"{question.name} is added to {value_text(target)}, and is "
        f"{range_text(need.culprit.var)}: {_why_unbounded(question, inside)}"
    )
    return Advice(reason, _compare(question, inside))


_NO_POINTERS = frozenset({RegType.SCALAR_VALUE, RegType.NOT_INIT})
_LOOK_AHEAD = 16


def _room_after(question: Question, target: Reg) -> int | None:
    """How many offsets may be added to the pointer, given the access that follows."""
    if target.map is not None:
        limit = target.map.value_size
    elif target.mem_size:
        limit = target.mem_size
    else:
        return None
    env, insn, pc = question.env, question.insn, question.error.pc
    reach = 1
    for ahead in range(pc + 1, pc + _LOOK_AHEAD):
        found = env.code.get(ahead)
        if insn is None or found is None or found.spec.kind is Kind.JUMP:
            break
        base = found.src if found.spec.kind in (Kind.LDX, Kind.LDSX) else found.dst
        if found.spec.size is not None and base == insn.dst:
            reach = found.off + int(found.spec.size)
            break
    return limit - target.off - target.var.umax - reach + 1


def _operands(question: Question) -> Sequence[Reg]:
    insn = question.insn
    if insn is None or question.path is None:
        return ()
    regs = question.path.steps[-1].state.frame.regs
    return (regs[insn.dst], regs[insn.src])


def _kfunc_arg(question: Question) -> Advice:
    culprit, insn = question.culprit, question.insn
    if culprit is None or insn is None or question.error.suggestion:
        return Advice()
    name = helper_name(question.env, insn)
    return Advice(
        f"{question.name} is {value_text(culprit)}: {question.error.reason}",
        f"pass {name} at {question.place(question.error.pc)} what its declaration asks for in "
        f"{question.name}",
    )


def _helper_arg(question: Question) -> Advice:
    if question.need is not None:
        return _bounds(question)
    culprit, insn = question.culprit, question.insn
    if insn is None:
        return Advice()
    if culprit is None or not question.links:
        called = helper_name(question.env, insn)
        at = question.place(question.error.pc)
        return Advice(suggestion=f"give {called} at {at} a map or string that it works with")
    place = question.links[-1].place
    if not isinstance(place, Register) or insn.spec.kind is not Kind.CALL:
        return Advice()
    name = helper_name(question.env, insn)
    helper = HELPERS.get(question.env.profile.helpers.get(insn.imm, ""))
    index = place.number - 1
    wanted = helper.args[index] if helper is not None and index < len(helper.args) else None
    what = _WANTED.get(wanted) if wanted is not None else None
    if what is None or question.error.suggestion:
        return Advice(
            f"{question.error.reason}; {question.name} is {value_text(culprit)}",
            "" if question.error.suggestion else f"pass {name} in {question.name} what it takes",
        )
    why = "" if question.error.reason.startswith("argument") else f": {question.error.reason}"
    return Advice(
        f"argument {place.number} of {name} must be {what}; {question.name} is "
        f"{value_text(culprit)}{why}",
        f"at {question.place(question.error.pc)}, pass in {question.name} {what}",
    )


_MEMORY = "a pointer to the stack, a map value or a record"
_WANTED: Mapping[ArgType, str] = {
    ArgType.CONST_MAP_PTR: "a map",
    ArgType.PTR_TO_MAP_KEY: _MEMORY,
    ArgType.PTR_TO_MAP_VALUE: _MEMORY,
    ArgType.PTR_TO_UNINIT_MAP_VALUE: _MEMORY,
    ArgType.PTR_TO_MEM: _MEMORY,
    ArgType.PTR_TO_MEM_OR_NULL: f"NULL or {_MEMORY}",
    ArgType.PTR_TO_UNINIT_MEM: _MEMORY,
    ArgType.CONST_SIZE: "a number of bytes above 0",
    ArgType.CONST_SIZE_OR_ZERO: "a number of bytes",
    ArgType.CONST_ALLOC_SIZE_OR_ZERO: "a constant number of bytes",
    ArgType.PTR_TO_CTX: "the context, as the program got it",
    ArgType.PTR_TO_ALLOC_MEM: "a record, as bpf_ringbuf_reserve gave it",
    ArgType.PTR_TO_FUNC: "a static function",
    ArgType.PTR_TO_STACK_OR_NULL: "NULL or a stack address",
    ArgType.PTR_TO_CONST_STR: "a constant string (in .rodata)",
}


def _release(question: Question) -> Advice:
    released = next(
        (
            link
            for link in reversed(question.links)
            if link.how is How.CHANGED and link.before is not None and link.before.ref_id
        ),
        None,
    )
    if released is None:
        return _helper_arg(question)
    helper = helper_name(question.env, question.env.code[released.pc])
    return Advice(
        f"{helper} at {question.place(released.pc)} has released this record already",
        f"release it once only: leave out the call at {question.place(released.pc)} or the one at "
        f"{question.place(question.error.pc)}",
    )


def _stack_access(question: Question) -> Advice:
    if question.need is not None:
        return _bounds(question)
    message = question.error.message
    if "return stack pointer" in message:
        return Advice(suggestion="let the caller pass a buffer of its own, or return a number")
    if "stack frame of the caller" in message:
        return Advice(
            suggestion="keep pointers to a function's stack in that function; pass numbers up"
        )
    return Advice()


def _misaligned(question: Question) -> Advice:
    culprit, insn = question.culprit, question.insn
    if culprit is None or insn is None or insn.spec.size is None:
        return Advice()
    size = int(insn.spec.size)
    base = "r10" if culprit.type is RegType.PTR_TO_STACK else f"the start of {_kind_text(culprit)}"
    offset = culprit.off + insn.off + (0 if culprit.var.mask else culprit.var.smin)
    plus = f" plus {range_text(culprit.var)}" if culprit.var.mask else ""
    return Advice(
        f"the address is {base}{offset:+d}{plus}, and an access of {size} bytes must lie at a "
        f"multiple of {size}",
        f"align the variable to {size} bytes, or access it byte by byte",
    )


def _kind_text(culprit: Reg) -> str:
    return "the map value" if culprit.map is not None else "the memory"


# Errors that are about no value.


def _read_only(question: Question) -> Advice:
    return _empty(question) or _only_here("write to a map or to the stack instead")(question)


def _empty(question: Question) -> Advice | None:
    """For memory of 0 bytes, of which kernels let a byte be read: its size is what is wrong."""
    source = _source(question, How.RESULT)
    if source is None or not _asked_for_nothing(question, source):
        return None
    place = question.place(source.pc)
    helper = helper_name(question.env, question.env.code[source.pc])
    return Advice(
        f"the memory is empty: {helper} is asked for 0 bytes at {place}",
        f"ask for as many bytes at {place} as the program uses",
    )


def _asked_for_nothing(question: Question, source: Link) -> bool:
    """Whether the memory that a kernel function gave is to have 0 bytes, as an argument says."""
    insn, btf = question.env.code[source.pc], question.env.target
    if question.path is None or source.index < 0 or insn.spec.kind is not Kind.CALL_KFUNC:
        return False
    found = btf.type(insn.imm) if btf is not None and 0 < insn.imm < len(btf) else None
    proto = btf.type(found.type_id) if btf is not None and isinstance(found, Func) else None
    names = [param.name for param in proto.params] if isinstance(proto, FuncProto) else []
    if RDWR_BUF_SIZE not in names:
        return False
    size = question.path.steps[source.index].state.frame.regs[1 + names.index(RDWR_BUF_SIZE)]
    return size.type is RegType.SCALAR_VALUE and size.var.umax == 0


def _reference_leak(question: Question) -> Advice:
    if question.path is None:
        return Advice()
    state = question.path.steps[-1].state
    if not state.refs:
        return Advice()
    acquired = state.refs[0][1]
    helper = helper_name(question.env, question.env.code[acquired])
    end = question.place(question.error.pc)
    steps = [(acquired, f"{helper} gives a reference that must be released")]
    for step in question.path.steps:
        insn = question.env.code[step.pc]
        held = any(ref[1] == acquired for ref in step.state.refs)
        if held and insn.spec.kind is Kind.JUMP:
            steps.append((step.pc, "this branch is taken with the reference held"))
    unique = dict(steps[:1] + steps[-2:])
    suffix = "_dynptr" if helper.endswith("_dynptr") else ""
    return Advice(
        f"what {helper} gave at {question.place(acquired)} is still held when the program ends at "
        f"{end}, on this path",
        f"bpf_ringbuf_submit{suffix} or bpf_ringbuf_discard{suffix} it on this path too, before "
        f"{end}"
        if "ringbuf" in helper
        else f"release it on this path too, before {end}",
        tuple(unique.items()),
    )


_OPENS = re.compile(r"lock|disable|save|new|create")
_CLOSES = re.compile(r"unlock|enable|restore|destroy")


def _left_open(question: Question) -> Advice:
    """A lock, or a region, that is held where it must not be."""
    if question.path is None or "inside" not in question.error.message:
        return Advice()
    env = question.env
    steps: list[tuple[int, str]] = []
    for step in question.path.steps[:-1]:
        insn = env.code[step.pc]
        if insn.spec.kind in (Kind.CALL, Kind.CALL_KFUNC):
            name = helper_name(env, insn)
            if _OPENS.search(name) and not _CLOSES.search(name):
                steps = [(step.pc, f"{name} opens what is still open at the end of this path")]
    if not steps:
        return Advice()
    opened = steps[0][0]
    name = helper_name(env, env.code[opened])
    return Advice(
        f"what {name} opened at {question.place(opened)} is still open when the program ends at "
        f"{question.place(question.error.pc)}, on this path",
        steps=tuple(steps),
    )


def _infinite_loop(question: Question) -> Advice:
    end = question.error.pc
    if question.path is None:
        return Advice(
            "no exit can be reached: every path goes round for ever",
            "give the program a way to its exit",
            ((end, "control never gets past here"),),
        )
    pcs = question.path.pcs
    turn = next((n for n in range(2, len(pcs) + 1) if pcs[-n] == end), len(pcs))
    loop = pcs[-turn:-1]
    jumps = [pc for pc in dict.fromkeys(loop) if question.env.code[pc].spec.kind in _BRANCHES]
    steps = [(pc, "part of the loop: no branch here leaves it") for pc in jumps[:_LOOP_STEPS]]
    length = "one instruction" if len(loop) <= 1 else f"{len(loop)} instructions"
    return Advice(
        f"after a turn of {length} the path is back at {question.place(end)} with the same "
        "registers and stack, so it goes round for ever",
        "change a register in the loop and leave when it reaches a constant, e.g. "
        "`for (i = 0; i < 64; i++)`",
        tuple(steps) or ((end, "the loop begins and ends here"),),
    )


_BRANCHES = frozenset({Kind.JUMP, Kind.GOTO})


def _recursion(question: Question) -> Advice:
    env, pc = question.env, question.error.pc
    calls = structure.calls_of(env)
    called = next((to for made in calls.values() for at, to in made if at == pc), None)
    caller = next((start for start, made in calls.items() if any(at == pc for at, _ in made)), None)
    if called is None or caller is None:
        return Advice()
    from_, to = env.functions[caller].name, env.functions[called].name
    loop = f"{from_} calls itself" if from_ == to else f"{from_} calls {to}, which calls {from_}"
    return Advice(
        f"{loop} (at {question.place(pc)}): programs can not recurse",
        "turn the recursion into a loop with a fixed bound"
        + (", or use bpf_loop" if "loop" in env.profile.helpers.values() else ""),
        ((pc, f"{from_} calls {to}, which is active already"),),
    )


def _call_depth(question: Question) -> Advice:
    split = "tail_call" in question.env.profile.helpers.values()
    more = ", or split the program with tail calls" if split else ""
    return Advice(suggestion=f"inline functions (static __always_inline){more}")


def _stack_depth(question: Question) -> Advice:
    env = question.env
    used = sorted(((size, start) for start, size in env.stack_bytes.items() if size), reverse=True)
    names = ", ".join(
        f"{env.functions[start].name} {size}" for size, start in used[:4] if start in env.functions
    )
    steps = tuple(
        (start, f"{env.functions[start].name} uses {size} bytes of stack")
        for size, start in reversed(used[:4])
        if start in env.functions
    )
    reason = f"{question.error.reason}; bytes used: {names}" if names else ""
    return Advice(
        reason,
        "move large variables into a map (a per-CPU array of one element), or make them smaller",
        steps,
    )


def _fall_through(question: Question) -> Advice:
    pc = question.error.pc
    if question.insn is None:
        return Advice()
    text = format_insn(question.insn, pc)
    return Advice(
        f"the function's last instruction is `{text}`, behind which nothing is left to execute",
        "end every function with exit or with a jump back into it",
        ((pc, "the last instruction of its function"),),
    )


def _bad_jump(question: Question) -> Advice:
    pc = question.error.pc
    if question.insn is None:
        return Advice()
    target = target_pc(question.insn, pc)
    return Advice(
        f"{question.error.reason}: from instruction {pc} to {target}",
        "assemble the program again; compilers do not make such jumps",
        ((pc, f"jumps or calls to {target}"),),
    )


def _unreachable(question: Question) -> Advice:
    return Advice(
        suggestion=f"remove instruction {question.error.pc} and what follows it, or make a branch "
        "lead there",
        steps=((question.error.pc, "nothing leads here"),),
    )


def _only_here(text: str) -> Callable[[Question], Advice]:
    """For errors that the instruction makes by itself."""

    def say(question: Question) -> Advice:
        return Advice(suggestion="" if question.error.suggestion else text)

    return say


_SAID: Mapping[Rule, Callable[[Question], Advice]] = {
    Rule.MAP_VALUE_ACCESS: _bounds,
    Rule.MEM_ACCESS: _bounds,
    Rule.STACK_ACCESS: _stack_access,
    Rule.HELPER_ARG: _helper_arg,
    Rule.USER_RANGE: _bounds,
    Rule.POINTER_BOUNDS: _pointer_bounds,
    Rule.PACKET_ACCESS: _packet,
    Rule.POSSIBLY_NULL: _null,
    Rule.NOT_A_POINTER: _not_a_pointer,
    Rule.UNINIT_REG: _uninit_reg,
    Rule.STACK_UNINIT: _stack_uninit,
    Rule.RETURN_VALUE: _return_value,
    Rule.POINTER_ARITH: _pointer_arith,
    Rule.REFERENCE_LEAK: _reference_leak,
    Rule.INFINITE_LOOP: _infinite_loop,
    Rule.RECURSION: _recursion,
    Rule.CALL_DEPTH: _call_depth,
    Rule.STACK_DEPTH: _stack_depth,
    Rule.FALL_THROUGH: _fall_through,
    Rule.BAD_JUMP: _bad_jump,
    Rule.UNREACHABLE: _unreachable,
    Rule.READ_ONLY: _read_only,
    Rule.UNKNOWN_HELPER: _only_here("check that the program was built for this ABI"),
    Rule.HELPER_NOT_ALLOWED: _only_here("use another helper, or another type of program"),
    Rule.ILLEGAL_INSN: _only_here("remove the instruction: compilers do not make it"),
    Rule.FRAME_POINTER: _only_here("copy r10 to another register and change that"),
    Rule.MISALIGNED: _misaligned,
    Rule.CTX_ACCESS: _only_here("access whole fields at their own offset and size"),
    Rule.RELEASE_UNOWNED: _release,
    Rule.KFUNC_ARG: _kfunc_arg,
    Rule.LOCK: _left_open,
    Rule.REGION: _left_open,
    Rule.BTF_ACCESS: _only_here("access a member of the struct, within its offset and size"),
    Rule.ATTACH_TARGET: _only_here("attach the program where its type and licence allow it"),
}
