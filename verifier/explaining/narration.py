"""What each link of a causal chain says to people who have never read a verifier's log."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pybpfvm.isa.disasm import format_insn
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import AluOp, Kind, Operand
from pybpfvm.profiles.mainline import with_number
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.domains.word import S64_MAX, S64_MIN, U32, U64
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.explaining.slicing import How, Link, Place, Register, StackSlot
from pybpfvm.verifier.states.regstate import NON_NULL, PACKET_TYPES, Reg, RegType

_LARGE = 1 << 20  # numbers above are said as powers of two where they are
_USER_COPIES = frozenset({"copy_from_user", "probe_read_user", "probe_read_user_str"})
_VERBS = {
    AluOp.ADD: "adding {b}",
    AluOp.SUB: "subtracting {b}",
    AluOp.MUL: "multiplying by {b}",
    AluOp.DIV: "dividing by {b}",
    AluOp.SDIV: "dividing by {b}",
    AluOp.MOD: "the remainder by {b}",
    AluOp.SMOD: "the remainder by {b}",
    AluOp.AND: "masking with {b}",
    AluOp.OR: "or-ing {b}",
    AluOp.XOR: "xor-ing {b}",
    AluOp.LSH: "shifting left by {b}",
    AluOp.RSH: "shifting right by {b}",
    AluOp.ARSH: "shifting right (signed) by {b}",
    AluOp.NEG: "negating it",
}


def name_of(place: Place) -> str:
    """The register's or the slot's name."""
    return f"r{place.number}" if isinstance(place, Register) else f"the stack at r10{place.base:+d}"


def helper_name(env: Environment, insn: Insn) -> str:
    """How programs call the helper or kernel function, with the number of a helper that only some
    ABIs have."""
    if insn.spec.kind is Kind.CALL_KFUNC:
        btf = env.target
        found = btf.type(insn.imm) if btf is not None and 0 < insn.imm < len(btf) else None
        return getattr(found, "name", "") or "the kernel function"
    if insn.spec.kind is not Kind.CALL:
        return "the packet load"
    name = env.profile.helpers.get(insn.imm) or env.profile.missing_helpers.get(insn.imm)
    if name is None:
        return f"helper {insn.imm}"
    shown = with_number(name, insn.imm)
    return f"bpf_{name}" if shown == name else shown


def number_text(number: int) -> str:
    """A number; large powers of two, and those less 1, as such."""
    size = abs(number)
    sign = "-" if number < 0 else ""
    for less, suffix in ((0, ""), (1, "-1")):
        power = size + less
        if power >= _LARGE and power & (power - 1) == 0:
            return f"{sign}2^{power.bit_length() - 1}{suffix}"
    return str(number)


def bytes_text(count: int) -> str:
    """So many bytes."""
    return "1 byte" if count == 1 else f"{number_text(count)} bytes"


def range_text(var: Scalar) -> str:
    """The numbers a scalar may be, in words."""
    if not var.mask:
        return number_text(var.smin)
    if var.umin == 0 and var.umax == U64 and (var.smin, var.smax) == (S64_MIN, S64_MAX):
        known = var.mask != U64
        return "any 64-bit number" + (f" with bits 0x{~var.mask & U64:x} known" if known else "")
    low32 = (var.u32min, var.u32max)
    if var.umax - var.umin > S64_MAX >> 1 and low32 != (0, U32):
        if low32[0] == low32[1]:
            return f"any number whose low 32 bits are {number_text(low32[0])}"
        ends = f"from {number_text(low32[0])} to {number_text(low32[1])}"
        return f"any number whose low 32 bits are {ends}"
    if var.smin < 0 and var.umin and var.umax == U64:
        return (
            f"a number of at least {number_text(var.umin)} (unsigned; perhaps negative if signed)"
        )
    if var.smin >= 0 or var.umin > S64_MAX:
        low, high = var.umin, var.umax
    else:
        low, high = var.smin, var.smax
    if (low, high) == (0, U32):
        return "any 32-bit number"
    if low == S64_MIN:
        if high == S64_MAX:
            return "any 64-bit number, perhaps negative"
        return f"a number of at most {number_text(high)}, perhaps negative"
    if high in (S64_MAX, U64):
        return f"a number of at least {number_text(low)}"
    return f"a number from {number_text(low)} to {number_text(high)}"


def value_text(reg: Reg | None) -> str:
    """What a register holds, in words."""
    if reg is None or reg.type is RegType.NOT_INIT:
        return "nothing"
    if reg.type is RegType.SCALAR_VALUE:
        return range_text(reg.var)
    if reg.type is RegType.PTR_TO_STACK and not reg.var.mask:
        return f"the stack address r10{reg.off + reg.var.smin:+d}"
    text = _POINTS_TO.get(reg.type) or f"a pointer of type {reg.type.value}"
    if reg.map is not None:
        text += f" {reg.map.name!r}"
    offset = reg.off + (reg.var.smin if not reg.var.mask else 0)
    if offset:
        text += f", {bytes_text(abs(offset))} {'into' if offset > 0 else 'before'} it"
    if reg.var.mask:
        text += f" plus {range_text(reg.var)}"
    return text


_POINTS_TO: Mapping[RegType, str] = {
    RegType.PTR_TO_ARENA: "a pointer into the arena",
    RegType.PTR_TO_CTX: "the context",
    RegType.CONST_PTR_TO_MAP: "the map",
    RegType.PTR_TO_MAP_VALUE: "a pointer to a value of map",
    RegType.PTR_TO_MAP_VALUE_OR_NULL: "NULL or a pointer to a value of map",
    RegType.MAP_PTR_OR_NULL: "NULL or a map",
    RegType.PTR_TO_MAP_KEY: "a pointer to a key of map",
    RegType.PTR_TO_STACK: "a stack address",
    RegType.PTR_TO_PACKET: "a pointer into the packet",
    RegType.PTR_TO_PACKET_META: "a pointer to the packet's metadata",
    RegType.PTR_TO_PACKET_END: "the end of the packet",
    RegType.PTR_TO_RINGBUF_MEM: "a ring buffer record",
    RegType.PTR_TO_RINGBUF_MEM_OR_NULL: "NULL or a ring buffer record",
    RegType.PTR_TO_FUNC: "a function's address",
    RegType.PTR_TO_BTF_ID: "a pointer to a kernel object",
    RegType.PTR_TO_BTF_ID_OR_NULL: "NULL or a pointer to a kernel object",
    RegType.PTR_TO_MEM: "a pointer to memory",
    RegType.PTR_TO_MEM_OR_NULL: "NULL or a pointer to memory",
    RegType.PTR_TO_SOCK_COMMON: "a pointer to a socket",
    RegType.PTR_TO_SOCK_COMMON_OR_NULL: "NULL or a pointer to a socket",
    RegType.PTR_TO_SOCKET: "a pointer to a socket",
    RegType.PTR_TO_SOCKET_OR_NULL: "NULL or a pointer to a socket",
    RegType.PTR_TO_TCP_SOCK: "a pointer to a TCP socket",
    RegType.PTR_TO_TCP_SOCK_OR_NULL: "NULL or a pointer to a TCP socket",
    RegType.PTR_TO_XDP_SOCK: "a pointer to an XDP socket",
    RegType.PTR_TO_XDP_SOCK_OR_NULL: "NULL or a pointer to an XDP socket",
}


def note_of(env: Environment, link: Link) -> str:
    """One link in one sentence. Ends without a full stop."""
    return _NOTES[link.how](env, link)


def _entry(env: Environment, link: Link) -> str:
    place = link.place
    if link.after is not None and link.after.type is RegType.PTR_TO_CTX:
        return (
            f"{name_of(place)} is the context ({env.profile.ctx_name}) that the program starts with"
        )
    if isinstance(place, Register) and place.number == 10:
        return "r10 is the frame pointer: the end of the 512 bytes of stack"
    return f"{name_of(place)} is an argument of this function: {value_text(link.after)}"


def _never(_: Environment, link: Link) -> str:
    place = link.place
    if isinstance(place, StackSlot):
        return f"from here on, nothing writes {name_of(place)} on this path"
    return f"r{place.number} holds nothing when the function starts, and nothing writes it after"


def _constant(_: Environment, link: Link) -> str:
    return f"{name_of(link.place)} is set to {value_text(link.after)}"


def _copied(env: Environment, link: Link) -> str:
    insn = env.code[link.pc]
    source = name_of(link.source) if link.source is not None else "another register"
    if insn.spec.op is AluOp.MOV and insn.spec.width == 64:
        return f"{name_of(link.place)} is a copy of {source}: {value_text(link.after)}"
    what = "the low 32 bits" if insn.spec.op is AluOp.MOV else "the low bits, sign-extended,"
    return f"{name_of(link.place)} is {what} of {source}: {value_text(link.after)}"


def operation_text(env: Environment, link: Link) -> str:
    """The arithmetic of a link as a phrase: "adding r3 (any 64-bit number)"."""
    insn = env.code[link.pc]
    op = insn.spec.op
    phrase = _VERBS.get(op) if isinstance(op, AluOp) else None
    if phrase is None:
        return format_insn(insn, link.pc)
    if insn.spec.operand is not Operand.X:
        return phrase.format(b=number_text(insn.imm))
    return phrase.format(b=f"r{insn.src} ({value_text(link.other)})")


def _computed(env: Environment, link: Link) -> str:
    name = name_of(link.place)
    insn = env.code[link.pc]
    phrase = operation_text(env, link)
    was, now = link.before, link.after
    if now is not None and now.type is not RegType.SCALAR_VALUE:
        return f"{name} becomes {value_text(now)} by {phrase}"
    if insn.spec.width == 32:
        phrase += " in 32 bits"
    if was is not None and was.type is not RegType.SCALAR_VALUE:
        return f"{name} was {value_text(was)}, and is a mere number after {phrase}"
    return f"{name} is {value_text(now)} after {phrase}"


def _loaded(env: Environment, link: Link) -> str:
    name = name_of(link.place)
    where = _memory_text(env, link)
    after = link.after
    if env.code[link.pc].spec.kind is Kind.ATOMIC:
        return f"{name} is what the atomic operation found in memory: {value_text(after)}"
    if after is not None and after.type is not RegType.SCALAR_VALUE:
        return f"{name} is read from {where}: {value_text(after)}"
    return f"{name} is read from {where}: {value_text(after)}{_whose(env, link.before)}"


def _memory_text(env: Environment, link: Link) -> str:
    pointer = link.before
    if pointer is None:
        return "memory"
    insn = env.code[link.pc]
    if pointer.type is RegType.PTR_TO_CTX:
        off = insn.off + pointer.off
        found = env.profile.ctx_field_named(off, int(insn.spec.size or 8), store=False)
        name = found.name if found is not None else f"offset {off}"
        return f"the context ({env.profile.ctx_name}.{name})"
    if pointer.map is not None and pointer.type is RegType.PTR_TO_MAP_VALUE:
        return f"a value of map {pointer.map.name!r}"
    return {
        RegType.PTR_TO_STACK: "the stack, at an offset that is not constant",
        RegType.PTR_TO_RINGBUF_MEM: "the ring buffer record",
        RegType.PTR_TO_MAP_KEY: "a map's key",
    }.get(pointer.type, "the packet" if pointer.type in PACKET_TYPES else "memory")


def _whose(env: Environment, pointer: Reg | None) -> str:
    if pointer is None:
        return ""
    if pointer.type in PACKET_TYPES:
        return ", as the sender chose"
    if pointer.type is RegType.PTR_TO_MAP_VALUE:
        return ", whatever was stored there"
    if pointer.type is RegType.PTR_TO_CTX and env.profile.ring is not None:
        return ", as user space chose"
    return ""


def _filled(_: Environment, link: Link) -> str:
    source = name_of(link.source) if link.source is not None else "the stack"
    return f"{name_of(link.place)} is read from {source}: {value_text(link.after)}"


def _stored(env: Environment, link: Link) -> str:
    insn = env.code[link.pc]
    name = name_of(link.place)
    over = ""
    if link.other is not None and link.other.type is not RegType.SCALAR_VALUE:
        over = f", over {value_text(link.other)} that was kept there"
    if insn.spec.kind is Kind.ATOMIC:
        return f"an atomic operation changes {name}{over}"
    if link.source is None:
        return f"{number_text(insn.imm)} is stored to {name}{over}"
    return f"{name_of(link.source)} is stored to {name}{over}: {value_text(link.before)}"


def _helper_wrote(env: Environment, link: Link) -> str:
    insn = env.code[link.pc]
    name = helper_name(env, insn)
    whose = ""
    if env.profile.helpers.get(insn.imm) in _USER_COPIES:
        whose = ": bytes from user space, which may be anything"
    return f"{name} writes to {name_of(link.place)} here{whose}"


def _result(env: Environment, link: Link) -> str:
    insn = env.code[link.pc]
    name = helper_name(env, insn)
    if insn.spec.kind is Kind.CALL_LOCAL:
        return f"r0 is what the function called here returns: {value_text(link.after)}"
    value = link.after
    if value is None or value.type is RegType.NOT_INIT:
        return f"{name} returns nothing: r0 can not be read after the call"
    if value.type in NON_NULL:
        what = value_text(value).removeprefix("NULL or ").removeprefix("a pointer to ")
        return f"r0 is what {name} returned: {what}, or NULL"
    return f"r0 is what {name} returned: {value_text(value)}"


def _clobbered(env: Environment, link: Link) -> str:
    insn = env.code[link.pc]
    name = "the call" if insn.spec.kind is Kind.CALL_LOCAL else f"calling {helper_name(env, insn)}"
    return f"{name} ends the life of r1 to r5: {name_of(link.place)} holds nothing afterwards"


def _parameter(env: Environment, link: Link) -> str:
    return f"{name_of(link.place)} is passed to the function called here: {value_text(link.after)}"


def _returned(_: Environment, link: Link) -> str:
    return f"the function returns r0: {value_text(link.after)}"


def _given(env: Environment, link: Link) -> str:
    name = helper_name(env, env.code[link.pc])
    return f"{name} gives its callback {value_text(link.after)} in {name_of(link.place)}"


def _narrowed(env: Environment, link: Link) -> str:
    was, now = link.before, link.after
    name = name_of(link.place)
    insn = env.code[link.pc]
    condition = format_insn(insn, link.pc).split(" goto")[0].removeprefix("if ")
    if was is not None and now is not None and was.type in NON_NULL and was.type is not now.type:
        return f"{name} is {value_text(now)} from here on (after comparing: {condition})"
    if now is not None and now.type in PACKET_TYPES:
        return (
            f"{now.range} bytes at {name}'s base lie inside the packet after comparing: {condition}"
        )
    return f"{name} is {value_text(now)} from here on (after comparing: {condition})"


def _changed(env: Environment, link: Link) -> str:
    insn = env.code[link.pc]
    name = name_of(link.place)
    was = link.before
    local = insn.spec.kind is Kind.CALL_LOCAL
    if insn.spec.kind is not Kind.CALL and not local:
        return f"{name} is {value_text(link.after)} after this"
    helper = "the function called here" if local else helper_name(env, insn)
    if was is not None and (was.type in PACKET_TYPES or was.type is RegType.PTR_TO_PACKET_END):
        return f"{helper} may move the packet: {name}, {value_text(was)}, is stale from here on"
    if was is not None and was.ref_id:
        return f"{helper} releases what {name} points to: it must not be used any more"
    return f"{helper} leaves {value_text(link.after)} in {name}"


_NOTES: Mapping[How, Callable[[Environment, Link], str]] = {
    How.ENTRY: _entry,
    How.NEVER: _never,
    How.CONSTANT: _constant,
    How.COPIED: _copied,
    How.COMPUTED: _computed,
    How.LOADED: _loaded,
    How.FILLED: _filled,
    How.STORED: _stored,
    How.HELPER_WROTE: _helper_wrote,
    How.RESULT: _result,
    How.CLOBBERED: _clobbered,
    How.PARAMETER: _parameter,
    How.RETURNED: _returned,
    How.GIVEN: _given,
    How.NARROWED: _narrowed,
    How.CHANGED: _changed,
}
