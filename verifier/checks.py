"""What must hold before memory is touched: one function per type of pointer.

Each raises `Refused` or returns; none changes a state. An access is `size` bytes at
register + `off`, where `off` comes from the instruction (0 for helper arguments).
"""

from __future__ import annotations

from pybpfvm.isa.opcodes import STACK_BYTES
from pybpfvm.profiles.base import CtxField, CtxHolds, CtxPointer, PacketAccess
from pybpfvm.profiles.ctxaccess import ctx_violation
from pybpfvm.program import BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG, MapSpec
from pybpfvm.verifier.domains.word import S64_MIN
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.refusal import Refused, forbidden, possibly_null, unsupported
from pybpfvm.verifier.resources.fields import check_field_access
from pybpfvm.verifier.states import stack
from pybpfvm.verifier.states.regstate import NON_NULL, PACKET_TYPES, Reg, RegType
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.usermemory.origin import ADDRESSES
from pybpfvm.verifier.verdict import Kind, Rule

# Hot functions compare with names of the module: finding an enum's member takes far longer.
_NOT_INIT, _STACK = RegType.NOT_INIT, RegType.PTR_TO_STACK

# The largest offset or size that the kernel lets a register hold, and that of packets.
MAX_VAR_OFF = 1 << 29
MAX_PACKET_OFF = 0xFFFF


def check_readable(reg: Reg, number: int) -> None:
    """The register was written."""
    if reg.type is _NOT_INIT:
        by_call = reg.at >= 0
        raise Refused(
            Rule.UNINIT_REG,
            f"R{number} !read_ok",
            reason=f"the call at instruction {reg.at} left nothing to read in r{number}"
            if by_call
            else f"r{number} is read, but nothing was written to it on this path",
            suggestion=f"set r{number} before this instruction on every path",
            certain=True,
            kind=Kind.POLICY if by_call and number == 0 else Kind.UNPROVEN,
        )


def not_memory(reg: Reg, number: int) -> Refused:
    """The refusal of an access through what is no memory."""
    message = f"R{number} invalid mem access '{reg.type.value}'"
    if reg.type in NON_NULL:
        return possibly_null(message, number, reg, ", and use it only where it is not")
    if reg.type in _HANDLES:
        return forbidden(
            Rule.NOT_A_POINTER,
            message,
            reason=f"a {reg.type.value} is a handle that helpers or comparisons take, not memory",
            culprit=reg,
        )
    if reg.origin is not None and reg.origin.source in ADDRESSES:
        return Refused(
            Rule.NOT_A_POINTER,
            message,
            reason=f"r{number} is {reg.origin.text}: as an address it is one of user space, which "
            "can only be read through bpf_copy_from_user",
            suggestion="copy what is needed to a local variable with bpf_copy_from_user and check "
            "its result",
            culprit=reg,
            certain=True,
        )
    return Refused(
        Rule.NOT_A_POINTER,
        message,
        reason=f"r{number} is {_described(reg.type)}, which can not be dereferenced",
        suggestion="memory outside the program's own is read by the probe and copy helpers",
        culprit=reg,
        certain=True,
    )


_HANDLES = frozenset({RegType.CONST_PTR_TO_MAP, RegType.PTR_TO_PACKET_END, RegType.PTR_TO_FUNC})


def _described(kind: RegType) -> str:
    return "a number" if kind is RegType.SCALAR_VALUE else f"a pointer of type {kind.value}"


def check_region(
    reg: Reg, number: int, off: int, size: int, limit: int, rule: Rule, invalid: str
) -> None:
    """`size` bytes (0 for none) at the register lie inside a region of `limit` bytes, wherever in
    its range the register points. `invalid` is the kernel's text, with {limit}, {off}, {size}."""
    off += reg.off
    var = reg.var
    low, high = var.smin + off, var.umax + off
    if 0 <= low <= limit - size >= high and var.umax < MAX_VAR_OFF:
        return
    bounds = (-off, limit - size - off)
    if var.smin < 0 and (var.smin == S64_MIN or var.smin + off < 0) and var.mask:
        raise Refused(
            rule,
            f"R{number} min value is negative, either use unsigned index or do a "
            "if (index >=0) check.",
            reason=f"the offset may be as low as {low}",
            suggestion="compare the index with 0, or make it unsigned",
            culprit=reg,
            bounds=bounds,
        )
    if low < 0 or low + size > limit:
        where = invalid.format(limit=limit, off=low, size=size)
        raise Refused(
            rule,
            f"{where}; R{number} min value is outside of the allowed memory range",
            reason=f"the access reaches bytes {low} to {low + size - 1} of {limit}",
            suggestion=_SHRINK,
            culprit=reg,
            bounds=bounds,
            certain=True,
        )
    if var.umax >= MAX_VAR_OFF:
        raise Refused(
            rule,
            f"R{number} unbounded memory access, make sure to bounds check any such access",
            reason="the offset has no upper bound",
            suggestion=f"compare the index with its limit ({limit} bytes here) before using it",
            culprit=reg,
            bounds=bounds,
        )
    if high + size > limit:
        where = invalid.format(limit=limit, off=high, size=size)
        raise Refused(
            rule,
            f"{where}; R{number} max value is outside of the allowed memory range",
            reason=f"the access may reach byte {high + size - 1} of {limit}",
            suggestion=_SHRINK,
            culprit=reg,
            bounds=bounds,
        )


_SHRINK = "keep offset + size within the object's size"


def check_map_value(
    env: Environment,
    reg: Reg,
    number: int,
    off: int,
    size: int,
    *,
    store: bool,
    direct: bool = False,
) -> None:
    """An access to a map value, inside it and as the map's flags allow. `direct`: by a load or
    store of the program's, not by a helper."""
    spec = reg.map
    assert spec is not None
    check_map_direction(spec, off + reg.off, size, store=store)
    invalid = "invalid access to map value, value_size={limit} off={off} size={size}"
    check_region(reg, number, off, size, spec.value_size, Rule.MAP_VALUE_ACCESS, invalid)
    fields = env.fields(spec)
    if fields:
        off += reg.off
        low, high = off + reg.var.smin, off + reg.var.umax
        check_field_access(fields, reg, low, high, size, direct=direct)


def check_map_direction(spec: MapSpec, off: int, size: int, *, store: bool) -> None:
    """The map's flags let programs write, or read, it."""
    if spec.flags & (BPF_F_RDONLY_PROG if store else BPF_F_WRONLY_PROG):
        verb = "write into" if store else "read from"
        raise forbidden(
            Rule.READ_ONLY,
            f"{verb} map forbidden, value_size={spec.value_size} off={off} size={size}",
            reason=f"map {spec.name} was made with "
            f"{'BPF_F_RDONLY_PROG' if store else 'BPF_F_WRONLY_PROG'}",
            suggestion="constants (.rodata) can not be changed by programs",
        )


def check_mem(reg: Reg, number: int, off: int, size: int) -> None:
    """An access to sized memory (a ring buffer record)."""
    invalid = "invalid access to memory, mem_size={limit} off={off} size={size}"
    check_region(reg, number, off, size, reg.mem_size, Rule.MEM_ACCESS, invalid)


def check_map_key(reg: Reg, number: int, off: int, size: int) -> None:
    """A load from the key that a for_each callback got."""
    assert reg.map is not None
    limit = reg.map.key_size
    invalid = "invalid access to map key, key_size={limit} off={off} size={size}"
    check_region(reg, number, off, size, limit, Rule.MEM_ACCESS, invalid)


def check_packet(reg: Reg, number: int, off: int, size: int) -> None:
    """The bytes were compared with the packet's end."""
    if reg.var.smin < 0:
        raise Refused(
            Rule.PACKET_ACCESS,
            f"R{number} min value is negative, either use unsigned index or do a "
            "if (index >=0) check.",
            culprit=reg,
        )
    at = reg.off + off
    if at < 0 or at + size > reg.range:
        raise Refused(
            Rule.PACKET_ACCESS,
            f"invalid access to packet, off={at} size={size}, "
            f"R{number}(id={reg.id},off={at},r={reg.range}); "
            f"R{number} offset is outside of the packet",
            reason=f"{reg.range} bytes from this pointer's base are known to be in the packet, "
            f"{at + size} are needed",
            suggestion="compare pointer + size with data_end first, on this path",
            culprit=reg,
        )


def check_packet_writable(env: Environment) -> None:
    """Programs of this type may write to the packet."""
    if env.profile.packet_access not in (PacketAccess.WRITE, PacketAccess.FREE):
        raise forbidden(
            Rule.READ_ONLY,
            "cannot write into packet",
            reason=f"{env.profile.name} programs may not write through packet pointers",
        )


def check_ctx_pointer(reg: Reg, number: int) -> None:
    """The context pointer is as the program got it: r`number` + 0."""
    if reg.var.mask:
        raise forbidden(
            Rule.CTX_ACCESS,
            f"variable ctx access var_off=(0x{reg.var.value:x}; 0x{reg.var.mask:x}) disallowed",
            reason="a variable was added to the context pointer",
            culprit=reg,
        )
    off = reg.off + reg.var.smin
    if off:
        name = "negative offset" if off < 0 else "dereference of modified"
        raise forbidden(
            Rule.CTX_ACCESS,
            f"{name} ctx ptr R{number} off={off} disallowed",
            reason="the context pointer was changed; its offset belongs into the instruction",
            suggestion="keep the context in a register of its own (clang: -O2, no pointer to "
            "a context field)",
            culprit=reg,
        )


def check_ctx(
    env: Environment,
    reg: Reg,
    number: int,
    off: int,
    size: int,
    *,
    store: bool,
    plain: bool,
    signed: bool = False,
) -> CtxField | None:
    """The profile lets programs access these bytes of the context; the field that they name.

    `plain` is False for stores by other means than from a register.
    """
    check_ctx_pointer(reg, number)
    access = (off, size, store, plain, signed)
    if access not in env.ctx_accesses:
        env.ctx_accesses[access] = _ctx_field(env, off, size, store, plain, signed)
    return env.ctx_accesses[access]


def _ctx_field(
    env: Environment, off: int, size: int, store: bool, plain: bool, signed: bool
) -> CtxField | None:
    profile = env.profile
    if profile.name == "syscall":
        _check_syscall_ctx(off, size)
        return None
    if profile.ring is None and not profile.ctx_fields:
        raise unsupported(f"the context of {profile.name} programs")
    violation = ctx_violation(
        profile, off, size, store=store, plain=plain, strict=env.options.strict_ctx
    )
    if violation is not None:
        raise forbidden(
            Rule.CTX_ACCESS,
            f"invalid bpf_context access off={off} size={size}",
            reason=violation,
            suggestion=f"fields of {profile.ctx_name}: "
            + ", ".join(f"{f.name}@{f.offset}:{f.size}" for f in profile.ctx_fields),
        )
    field = profile.ctx_field_named(off, size, store=store)
    if field is not None and field.pointer is CtxPointer.KERNEL_STRUCT:
        raise unsupported(f"{profile.ctx_name}.{field.name}, a pointer to a kernel object")
    if field is not None and signed and (field.pointer or field.holds in POINTER_FIELDS):
        raise forbidden(
            Rule.CTX_ACCESS,
            f"invalid bpf_context access off={off} size={size}",
            reason=f"{field.name} is a pointer: it can not be loaded with sign extension",
        )
    return field


# The kernel checks the size of what a caller gives against the highest byte that was accessed.
_SYSCALL_CTX_BYTES = 0xFFFF


def _check_syscall_ctx(off: int, size: int) -> None:
    if off < 0 or off >= _SYSCALL_CTX_BYTES or off % size:
        raise forbidden(
            Rule.CTX_ACCESS,
            f"invalid bpf_context access off={off} size={size}",
            reason=f"aligned accesses to {_SYSCALL_CTX_BYTES} bytes are allowed",
        )


POINTER_FIELDS = {
    CtxHolds.DATA: RegType.PTR_TO_PACKET,
    CtxHolds.DATA_END: RegType.PTR_TO_PACKET_END,
    CtxHolds.DATA_META: RegType.PTR_TO_PACKET_META,
}


def check_stack_bounds(
    env: Environment, state: State, reg: Reg, number: int, off: int, size: int, what: str
) -> tuple[int, int]:
    """The access lies in the 512 bytes below the frame pointer: its least and greatest offset.

    `what` is " read from" or " write to" in the kernel's message.
    """
    var = reg.var
    if not var.mask:
        low = high = reg.off + off + var.smin
    else:
        if var.smax >= MAX_VAR_OFF or var.smin <= -MAX_VAR_OFF:
            raise Refused(
                Rule.STACK_ACCESS,
                f"invalid unbounded variable-offset{what} stack R{number}",
                reason="what was added to the frame pointer has no bounds",
                suggestion="compare the index with the array's size first",
                culprit=reg,
                bounds=_stack_bounds(reg, off, size),
            )
        low, high = reg.off + off + var.smin, reg.off + off + var.smax
    if low < -STACK_BYTES or low >= 0 or high + size > 0:
        if not var.mask:
            text = f"invalid{what} stack R{number} off={low} size={size}"
        else:
            text = (
                f"invalid variable-offset{what} stack R{number} "
                f"var_off=(0x{var.value:x}; 0x{var.mask:x}) off={reg.off + off} size={size}"
            )
        raise Refused(
            Rule.STACK_ACCESS,
            text,
            reason=f"the access may touch r10{low:+d} to r10{high + size - 1:+d}; "
            f"the stack is r10-{STACK_BYTES} to r10-1",
            suggestion="keep the offset inside the array on the stack",
            culprit=reg,
            bounds=_stack_bounds(reg, off, size),
            certain=size > 0 and (low + size > 0 or high < -STACK_BYTES or not var.mask),
        )
    env.used_stack(state.frames[reg.frame].entry, low)
    return low, high


def _stack_bounds(reg: Reg, off: int, size: int) -> tuple[int, int]:
    """Between what numbers the one added to the pointer must lie."""
    return -STACK_BYTES - reg.off - off, -size - reg.off - off


def check_stack_init(
    env: Environment, state: State, reg: Reg, number: int, low: int, size: int, shown: str
) -> None:
    """`size` bytes at `low` are read: they were written, where the kernel asks for that. `shown`
    precedes " off" in the kernel's text."""
    stack.note_read(state.frames[reg.frame], low, size)
    taken = stack.first_object(state.frames[reg.frame], low, size)
    if taken is not None:
        raise forbidden(
            Rule.STACK_ACCESS,
            f"invalid {shown} off {low}+{taken} size {size}",
            reason="these bytes are an object of the kernel's, which only its functions read",
            culprit=reg,
        )
    if env.rules.uninit_stack:
        return
    missing = stack.first_invalid(state.frames[reg.frame], low, size)
    if missing is not None:
        raise Refused(
            Rule.STACK_UNINIT,
            f"invalid {shown} off {low}+{missing} size {size}",
            reason=f"byte r10{low + missing:+d} was never written on this path",
            suggestion="initialise the whole variable, padding included (memset or = {0})",
            culprit=reg,
            certain=not reg.var.mask,
        )


# Packets begin 2 bytes behind an aligned address, so that the IP header behind Ethernet's is.
_PACKET_ALIGN = 2


def check_alignment(reg: Reg, off: int, size: int, *, strict: bool) -> None:
    """Accesses to the stack, and atomic ones anywhere, are aligned to their size; x86 lets all
    others be as they are."""
    if size == 1 or not (strict or reg.type is _STACK):
        return
    at = reg.off + off
    if reg.type in PACKET_TYPES:
        at += _PACKET_ALIGN
    low = (reg.var.value + at) & (size - 1)
    if low or reg.var.mask & (size - 1):
        name = "stack " if reg.type is RegType.PTR_TO_STACK else ""
        var_off = f"(0x{reg.var.value:x}; 0x{reg.var.mask:x})" if reg.var.mask else "0"
        raise forbidden(
            Rule.MISALIGNED,
            f"misaligned {name}access off {var_off}+{reg.off}+{off} size {size}",
            reason=f"the address is not known to be a multiple of {size}",
            suggestion="align the variable, or access it byte by byte",
            culprit=reg,
        )
