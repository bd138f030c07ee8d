"""Helper calls: what each argument must be, and what the call leaves behind.

All knowledge of a single helper is its row in `pybpfvm.helpers.table`; which programs it is
offered to, the profile's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pybpfvm.helpers.format import FormatError, parse
from pybpfvm.helpers.proto import ArgType, Helper, RetType
from pybpfvm.helpers.table import HELPERS
from pybpfvm.isa.insn import Insn
from pybpfvm.isa.opcodes import STACK_BYTES, Kind
from pybpfvm.profiles.base import PacketAccess
from pybpfvm.profiles.mainline import MAINLINE_NAMES, with_number
from pybpfvm.program import BPF_F_RDONLY_PROG, POISON_CORE, POISON_KFUNC, MapSpec, MapType
from pybpfvm.verifier import checks
from pybpfvm.verifier.checks import check_readable
from pybpfvm.verifier.domains.scalar import Scalar, sync
from pybpfvm.verifier.domains.word import S32_MAX, S32_MIN, U32, U64
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.jumps import places
from pybpfvm.verifier.kernelobjects import btfhelpers, rcu
from pybpfvm.verifier.kernelobjects.kernelptr import SOCKETS
from pybpfvm.verifier.mapuse import check_map_helper, takes_sockets
from pybpfvm.verifier.privileges.capabilities import check_helper, check_one_map
from pybpfvm.verifier.privileges.leaks import check_conceals, check_no_pointers
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.resources import dynptr, slices
from pybpfvm.verifier.resources.lock import check_call_unlocked, check_unlocked
from pybpfvm.verifier.states import stack
from pybpfvm.verifier.states.regstate import (
    NON_NULL,
    PACKET_TYPES,
    Pointer,
    Reg,
    RegType,
    Trust,
    clobbered,
    is_null,
    mark_precise,
    scalar,
    unknown,
)
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.usermemory import usermem
from pybpfvm.verifier.usermemory.usernames import LEAST_BYTES, SUBMIT
from pybpfvm.verifier.verdict import Rule

_STACK, _VALUE = RegType.PTR_TO_STACK, RegType.PTR_TO_MAP_VALUE
_MEMORY = (
    _STACK,
    RegType.PTR_TO_PACKET,
    RegType.PTR_TO_PACKET_META,
    RegType.PTR_TO_MAP_KEY,
    _VALUE,
    RegType.PTR_TO_RINGBUF_MEM,
)
_SHARED = PACKET_TYPES | {RegType.PTR_TO_MEM}
_SOCKETS = tuple(SOCKETS)
_KINDS: Mapping[ArgType, tuple[RegType, ...]] = {
    ArgType.CONST_MAP_PTR: (RegType.CONST_PTR_TO_MAP,),
    ArgType.PTR_TO_MAP_KEY: _MEMORY,
    ArgType.PTR_TO_MAP_VALUE: _MEMORY,
    ArgType.PTR_TO_UNINIT_MAP_VALUE: _MEMORY,
    ArgType.PTR_TO_MEM: _MEMORY,
    ArgType.PTR_TO_MEM_OR_NULL: _MEMORY,
    ArgType.PTR_TO_UNINIT_MEM: _MEMORY,
    ArgType.PTR_TO_LONG: _MEMORY,
    ArgType.PTR_TO_INT: _MEMORY,
    ArgType.CONST_SIZE: (RegType.SCALAR_VALUE,),
    ArgType.CONST_SIZE_OR_ZERO: (RegType.SCALAR_VALUE,),
    ArgType.CONST_ALLOC_SIZE_OR_ZERO: (RegType.SCALAR_VALUE,),
    ArgType.PTR_TO_CTX: (RegType.PTR_TO_CTX,),
    ArgType.PTR_TO_ALLOC_MEM: (RegType.PTR_TO_RINGBUF_MEM,),
    ArgType.PTR_TO_FUNC: (RegType.PTR_TO_FUNC,),
    ArgType.PTR_TO_STACK_OR_NULL: (_STACK,),
    ArgType.PTR_TO_CONST_STR: (_VALUE,),
    ArgType.PTR_TO_FIXED_SIZE_MEM: _MEMORY,
    ArgType.PTR_TO_MAP_VALUE_OR_NULL: _MEMORY,
    ArgType.PTR_TO_CTX_OR_NULL: (RegType.PTR_TO_CTX,),
    ArgType.PTR_TO_BTF_ID_SOCK_COMMON: (*_SOCKETS, RegType.PTR_TO_BTF_ID),
    ArgType.PTR_TO_SOCK_COMMON: _SOCKETS,
    ArgType.PTR_TO_SOCKET_OR_NULL: (RegType.PTR_TO_SOCKET,),
    ArgType.PTR_TO_BTF_ID: (RegType.PTR_TO_BTF_ID,),
    ArgType.PTR_TO_BTF_ID_OR_NULL: (RegType.PTR_TO_BTF_ID,),
    ArgType.PTR_TO_PERCPU_BTF_ID: (RegType.PTR_TO_BTF_ID,),
    ArgType.PTR_TO_DYNPTR: (_STACK, RegType.CONST_PTR_TO_DYNPTR),
}
# Arguments of which only the kind of register is known to be right.
_NOT_JUDGED = frozenset(
    {
        ArgType.PTR_TO_BTF_ID_OR_NULL,
        ArgType.PTR_TO_PERCPU_BTF_ID,
    }
)
_NULLABLE = frozenset(
    {
        ArgType.PTR_TO_MEM_OR_NULL,
        ArgType.PTR_TO_STACK_OR_NULL,
        ArgType.PTR_TO_CTX_OR_NULL,
        ArgType.PTR_TO_MAP_VALUE_OR_NULL,
        ArgType.PTR_TO_SOCKET_OR_NULL,
        ArgType.PTR_TO_BTF_ID_OR_NULL,
    }
)
_DONTCARE, _ANYTHING = ArgType.DONTCARE, ArgType.ANYTHING
_MAP, _ELEMENT = ArgType.CONST_MAP_PTR, ArgType.PTR_TO_MAP_VALUE
_BTF_ID, _SOCK_COMMON = ArgType.PTR_TO_BTF_ID, ArgType.PTR_TO_BTF_ID_SOCK_COMMON
_CONTEXT = frozenset({ArgType.PTR_TO_CTX, ArgType.PTR_TO_CTX_OR_NULL})
_SIZED = frozenset({ArgType.PTR_TO_MEM, ArgType.PTR_TO_MEM_OR_NULL, ArgType.PTR_TO_UNINIT_MEM})
_SIZES = frozenset({ArgType.CONST_SIZE, ArgType.CONST_SIZE_OR_ZERO})
_UNINIT = frozenset(
    {ArgType.PTR_TO_UNINIT_MEM, ArgType.PTR_TO_UNINIT_MAP_VALUE, ArgType.PTR_TO_LONG}
    | {ArgType.PTR_TO_INT}
)

# Structs whose functions have the helpers that the profile struct_ops lists.
_STRUCT_OPS_HELPERS = frozenset({"tcp_congestion_ops"})
_MAX_ERRNO = 4095
_MAX_CPUS = 8192
_SNPRINTF_ARGS = 12


@dataclass(slots=True)
class _Call:
    """What the arguments of one call said, for those that follow and for the result."""

    env: Environment
    state: State
    pc: int
    helper: Helper
    map: MapSpec | None = None
    map_index: int = -1
    constant_key: int | None = None
    alloc_size: int = 0
    max_size: int = 0
    released: int = 0
    subprog: int = -1
    writes: list[Callable[[], None]] = field(default_factory=list)
    text: bytes | None = None
    dynptr: dynptr.Dynptr | None = None

    @property
    def name(self) -> str:
        """What texts call the helper, or the kernel's function."""
        insn = self.env.code[self.pc]
        if insn.spec.kind is not Kind.CALL:
            return self.helper.name
        return with_number(self.helper.name, insn.imm)

    @property
    def args(self) -> tuple[ArgType, ...]:
        """What the arguments must be."""
        return self.helper.args_for(self.env.profile.type_name, self.env.profile.attach_type)

    @property
    def regs(self) -> list[Reg]:
        return self.state.frame.regs


def helper_of(env: Environment, insn: Insn) -> Helper:
    """The helper that a call names, if the profile offers it to this program."""
    profile = env.profile
    name = profile.helpers.get(insn.imm)
    if name is None:
        raise _not_offered(env, insn.imm)
    helper = HELPERS.get(name)
    if helper is None:
        raise unsupported(f"helper {name}#{insn.imm}")
    if profile.name == "struct_ops" and env.attachment.struct not in _STRUCT_OPS_HELPERS:
        raise unsupported(f"helpers in programs of struct_ops {env.attachment.struct}")
    if helper.sleeps and not env.sleepable and not _always_offered(env):
        raise forbidden(
            Rule.HELPER_NOT_ALLOWED,
            f"helper call {name}#{insn.imm} might sleep in a non-sleepable prog",
            reason="only sleepable programs may call it",
            suggestion="put the program into a sleepable section (.s)",
        )
    if helper.sleeps:
        check_not_in_place(env, f"{name}#{insn.imm}")
    if helper.needs_gpl(profile.type_name, profile.attach_type) and not env.gpl:
        raise forbidden(
            Rule.HELPER_NOT_ALLOWED,
            "cannot call GPL-restricted function from non-GPL compatible program",
            reason=f"{name} is for programs under a licence compatible with the GPL, "
            f"this one's is {env.program.license!r}",
        )
    check_helper(env, name, insn)
    return helper


def _poisoned(env: Environment, number: int) -> str:
    """Why the loader left a call that nobody can make, "" for a call of the program's."""
    if number == POISON_CORE:
        return "the field, type or enum value that stood here does not exist in the kernel's BTF"
    if number < POISON_KFUNC or number not in env.obj.kernel_functions:
        return ""
    name = env.obj.kernel_functions[number]
    return f"{name} stood here, which is declared weak, and the kernel does not have it"


def _not_offered(env: Environment, number: int) -> Refused:
    profile, poisoned = env.profile, _poisoned(env, number)
    missing = profile.missing_helpers.get(number)
    if missing is not None:
        return unsupported(f"helper {missing}#{number}, which only some kernels offer")
    known = MAINLINE_NAMES.get(number) if profile.ring is None and number else None
    if known is not None:
        return forbidden(
            Rule.HELPER_NOT_ALLOWED,
            f"program of this type cannot use helper bpf_{known}#{number}",
            reason=f"the kernel does not offer it to {profile.name} programs",
            suggestion="check that the section's name says what the program is for",
        )
    if poisoned:
        return forbidden(
            Rule.UNKNOWN_HELPER,
            f"invalid func unknown#{number}",
            reason=poisoned,
            suggestion="guard it by a test that such kernels fail, or choose another --btf",
        )
    return forbidden(
        Rule.UNKNOWN_HELPER,
        f"invalid func unknown#{number}",
        reason=f"{profile.name} has no helper with this number",
        suggestion="check that the program was built for this ABI",
    )


def check_not_in_place(env: Environment, what: str) -> None:
    """A call that may sleep is not in a program that replaces a function: which of those a kernel
    lets sleep is not known here."""
    if env.program.replaces is not None:
        raise unsupported(f"{what}, which may sleep, in programs that replace functions")


def _always_offered(env: Environment) -> bool:
    """The first posting's programs can not sleep, and submit all the same."""
    return env.profile.name == "iouring-v1"


def moves_packet(env: Environment, insn: Insn) -> bool:
    """Whether packet pointers are stale after a function that makes this call: a program that
    was called by tail call returns to that function's caller."""
    helper = HELPERS.get(env.profile.helpers.get(insn.imm, ""))
    return helper is not None and (helper.moves_packet or helper.name == "tail_call")


def may_sleep(env: Environment, insn: Insn) -> bool:
    """Whether the helper that is called may sleep."""
    helper = HELPERS.get(env.profile.helpers.get(insn.imm, ""))
    return helper is not None and helper.sleeps


def call_helper(env: Environment, state: State, insn: Insn, pc: int) -> int:
    """Check the arguments and apply the call to `state`.

    Gives the pc of the callback that the helper calls, -1 if it calls none: then the caller of
    this function explores that too.
    """
    if state.locks:
        check_call_unlocked(state, env.profile.helpers.get(insn.imm))
    helper = helper_of(env, insn)
    if helper.sleeps:
        rcu.check_may_sleep(state, f"sleepable helper {helper_text(helper)}#{insn.imm} in")
    call = _Call(env, state, pc, helper)
    for number, kind in enumerate(call.args, 1):
        _check_argument(call, number, kind)
    _check_whole(call)
    for write in call.writes:
        write()
    if helper.moves_packet:
        forget_packet(state, pc)
    if call.released:
        release(state, call.released, pc)
    regs = state.frame.regs
    first = regs[1]
    args = tuple(regs[1:6]) if env.traces else ()
    regs[1:6] = [clobbered(pc)] * 5
    regs[0] = _result(call, first)
    if args:
        regs[0] = usermem.called(env, state, helper, pc, args, regs[0])
    return call.subprog


def _check_argument(call: _Call, number: int, kind: ArgType) -> None:
    if kind is _DONTCARE or number > call.helper.checked_args:
        return
    reg = call.regs[number]
    check_readable(reg, number)
    if kind is _ANYTHING:
        check_conceals(call.env, reg, f"R{number} leaks addr into helper function")
        return
    if kind is _BTF_ID:
        btfhelpers.check_argument(call.env, call.helper.name, reg, number)
        return
    if kind is _ELEMENT and call.map is not None and takes_sockets(call.map):
        kind = ArgType.PTR_TO_BTF_ID_SOCK_COMMON
    allowed = _KINDS[kind]
    if kind in _NULLABLE and is_null(reg):
        mark_precise(reg)
        return
    if reg.type not in allowed and not (allowed is _MEMORY and _is_memory(call, number, kind)):
        raise _mismatch(reg, number, allowed, call)
    if kind in _NOT_JUDGED or (kind is _SOCK_COMMON and reg.type is RegType.PTR_TO_BTF_ID):
        raise unsupported(f"arguments of type {kind.name} ({call.helper.name})")
    if number == call.helper.releases:
        _take_reference(call, reg, number)
    if kind in _SIZED:
        return  # its size follows
    if kind in _SIZES:
        _check_sized(call, number, kind)
    elif kind in _ELEMENTS:
        _check_element(call, number, kind)
    elif kind is _MAP:
        _take_map(call, reg)
    elif kind in _CONTEXT:
        checks.check_ctx_pointer(reg, number)
    elif kind in (ArgType.PTR_TO_LONG, ArgType.PTR_TO_INT):
        size = 8 if kind is ArgType.PTR_TO_LONG else 4
        checks.check_alignment(reg, 0, size, strict=True)
        _memory(call, number, size, writes=True, raw=True)
    elif kind is ArgType.CONST_ALLOC_SIZE_OR_ZERO:
        _take_alloc_size(call, reg, number)
    elif kind is ArgType.PTR_TO_DYNPTR:
        _take_dynptr(call, reg, number)
    elif kind is ArgType.PTR_TO_FIXED_SIZE_MEM:
        _check_fixed(call, number)
    elif kind is ArgType.PTR_TO_FUNC:
        _take_callback(call, reg, number)
    elif kind is ArgType.PTR_TO_CONST_STR:
        call.text = constant_string(call.env, reg, number)


def _is_memory(call: _Call, number: int, kind: ArgType) -> bool:
    writes = kind in _UNINIT or number in call.helper.writes
    return btfhelpers.is_memory(call.regs[number], element=kind in _ELEMENTS, writes=writes)


# Keys and values of maps: kernels take no object of their own for one.
_ELEMENTS = frozenset(
    {
        ArgType.PTR_TO_MAP_KEY,
        ArgType.PTR_TO_MAP_VALUE,
        ArgType.PTR_TO_MAP_VALUE_OR_NULL,
        ArgType.PTR_TO_UNINIT_MAP_VALUE,
    }
)


def _mismatch(reg: Reg, number: int, allowed: tuple[RegType, ...], call: _Call) -> Refused:
    text = f"R{number} type={reg.type.value} expected={', '.join(t.value for t in allowed)}"
    reason = f"argument {number} of {call.name} can not be a {reg.type.value}"
    if number == call.helper.releases and reg.type not in NON_NULL:
        return Refused(Rule.RELEASE_UNOWNED, text, reason=reason, culprit=reg, certain=True)
    if reg.type not in NON_NULL:
        return forbidden(Rule.HELPER_ARG, text, reason=reason, culprit=reg)
    return Refused(
        Rule.POSSIBLY_NULL,
        text,
        reason=reason,
        suggestion=f"compare r{number} with 0 first",
        culprit=reg,
    )


def _take_map(call: _Call, reg: Reg) -> None:
    assert reg.map is not None
    check_map_helper(reg.map, call.helper.name, call.env.profile.name)
    call.map, call.map_index = reg.map, reg.map_index


def _check_element(call: _Call, number: int, kind: ArgType) -> None:
    """A key or value of the map argument, whose sizes the map tells."""
    spec = call.map
    assert spec is not None, "maps come before their keys and values"
    if kind is ArgType.PTR_TO_MAP_KEY:
        _memory(call, number, spec.key_size, writes=False, raw=False)
        if call.env.rules.lookup_never_null:
            call.constant_key = _constant_key(call, call.regs[number], spec)
    else:
        # A Bloom filter is asked for what is there.
        raw = kind is ArgType.PTR_TO_UNINIT_MAP_VALUE and spec.type != MapType.BLOOM_FILTER
        _memory(call, number, spec.value_size, writes=raw, raw=raw)


def _constant_key(call: _Call, reg: Reg, spec: MapSpec) -> int | None:
    """The index that the key on the stack holds, if it is a known one of an array."""
    if (
        call.helper.name != "map_lookup_elem"
        or spec.type not in (MapType.ARRAY, MapType.PERCPU_ARRAY)
        or reg.type is not _STACK
        or reg.var.mask
    ):
        return None
    low = reg.off + reg.var.smin
    slot = call.state.frames[reg.frame].stack.get(low & -stack.SLOT_BYTES)
    index = low & 7
    if slot is None or index + spec.key_size > stack.SLOT_BYTES:
        return None
    if slot.kinds[index : index + spec.key_size] == bytes([stack.ZERO] * spec.key_size):
        return 0
    # The kernel looks no further than for a number that ends where the key does.
    held = slot.reg
    if held is None or slot.spilled - index != spec.key_size or not call.env.little:
        return None
    if held.type is not RegType.SCALAR_VALUE or held.var.mask:
        return None
    if held.var.value >= spec.max_entries:
        return None
    mark_precise(held)
    return held.var.value >> 8 * index


def _check_sized(call: _Call, number: int, kind: ArgType) -> None:
    """A size, and the memory before it."""
    size = call.regs[number]
    kind_before = call.args[number - 2]
    zero_allowed = kind is ArgType.CONST_SIZE_OR_ZERO
    var = size.var
    if var.smin < 0:
        raise _bad_size(
            f"R{number} min value is negative, either use unsigned or 'var &= const'", size
        )
    if var.umin == 0 and not zero_allowed:
        raise forbidden(
            Rule.HELPER_ARG,
            f"R{number} invalid zero-sized read: u64=[{var.umin},{var.umax}]",
            reason=f"{call.name} needs at least one byte",
            suggestion="leave early when the size is 0",
            culprit=size,
        )
    if var.umax >= checks.MAX_VAR_OFF:
        raise _bad_size(
            f"R{number} unbounded memory access, use 'var &= const' or 'if (var < const)'", size
        )
    call.max_size = var.umax
    mark_precise(size)
    pointer = call.regs[number - 1]
    if is_null(pointer):
        if var.umax:
            raise Refused(
                Rule.HELPER_ARG,
                f"R{number - 1} type=scalar expected={', '.join(t.value for t in _MEMORY)}",
                reason=f"{call.name} would access {var.umax} bytes at NULL",
                culprit=pointer,
            )
        return
    writes = kind_before in _UNINIT or number - 1 in call.helper.writes
    raw = kind_before in _UNINIT and not var.mask
    most = max(var.umax, _least_bytes(call))
    _memory(call, number - 1, most, writes=writes, raw=raw, exact=not var.mask)


def _least_bytes(call: _Call) -> int:
    """What the helper accesses whatever size it is told."""
    ring = call.env.profile.ring
    return 0 if ring is None or ring.length_checked else LEAST_BYTES.get(call.helper.name, 0)


def _bad_size(message: str, culprit: Reg) -> Refused:
    return Refused(
        Rule.HELPER_ARG,
        message,
        reason="the size must have bounds that the memory fits",
        suggestion="compare the size with the buffer's before the call, or mask it",
        culprit=culprit,
    )


def _memory(
    call: _Call, number: int, size: int, *, writes: bool, raw: bool, exact: bool = True
) -> None:
    """`size` bytes at register `number` may be read by the helper, or written if it `writes`.

    `raw`: they need not be initialised and will be; `exact`: `size` is not just the most.
    """
    env, reg = call.env, call.regs[number]
    kind = reg.type
    if kind in _SHARED and env.profile.ring is not None and env.profile.ring.contexts:
        _check_read_once(call, number, reg)
    if kind is _STACK:
        _stack_memory(call, number, reg, size, writes=writes, raw=raw, exact=exact)
    elif kind is _VALUE:
        checks.check_map_value(env, reg, number, 0, size, store=writes)
    elif kind in PACKET_TYPES:
        if not (call.helper.takes_packet or env.profile.packet_access is PacketAccess.FREE):
            raise forbidden(
                Rule.HELPER_ARG,
                "helper access to the packet is not allowed",
                reason=f"{call.name} can not work on packet memory",
                suggestion="copy the bytes to the stack first",
                culprit=reg,
            )
        if writes:
            checks.check_packet_writable(env)
        checks.check_packet(reg, number, 0, size)
    elif kind is RegType.PTR_TO_RINGBUF_MEM:
        checks.check_mem(reg, number, 0, size)
    elif kind is RegType.PTR_TO_MAP_KEY:
        if writes:
            raise forbidden(
                Rule.READ_ONLY,
                f"R{number} cannot write into map_key",
                reason="keys of a map can not be changed in place",
                culprit=reg,
            )
        checks.check_map_key(reg, number, 0, size)
    elif btfhelpers.is_memory(reg):
        btfhelpers.check_memory(env, helper_text(call.helper), reg, number, size, writes=writes)
        if writes and reg.buffer:
            call.writes.append(lambda: slices.stored_through(env, call.state, reg))
    else:
        raise _mismatch(reg, number, _MEMORY, call)


def _check_read_once(call: _Call, number: int, reg: Reg) -> None:
    """What a helper looks at before it uses it lies where nobody changes it in between: requests
    that are in flight write to the memory that a request has (iouring-x)."""
    args = call.args
    key = number <= len(args) and args[number - 1] is ArgType.PTR_TO_MAP_KEY
    if key or call.helper.name in SUBMIT:
        raise forbidden(
            Rule.HELPER_ARG,
            f"R{number} type={reg.type.value} may change while {helper_text(call.helper)} reads it",
            reason=f"{'a key' if key else 'an SQE'} in memory that is shared with user space can "
            "become another one after it was checked",
            suggestion="copy it to the stack, and pass that",
            culprit=reg,
        )


def memory_argument(
    env: Environment,
    state: State,
    pc: int,
    function: str,
    number: int,
    size: int,
    *,
    exact: bool = True,
    packet: bool = False,
) -> list[Callable[[], None]]:
    """`size` bytes (if `exact`, else at most) at register `number` may be read and written by a
    function of the kernel's or the program's, of a `packet` too; what the writing does, to be done
    once all arguments are checked."""
    call = _Call(env, state, pc, Helper(function, (), RetType.VOID, None, "", takes_packet=packet))
    _memory(call, number, size, writes=True, raw=False, exact=exact)
    return call.writes


def helper_text(helper: Helper) -> str:
    """The name that the kernel's messages have for a helper."""
    return f"bpf_{helper.name}"


def _stack_memory(
    call: _Call, number: int, reg: Reg, size: int, *, writes: bool, raw: bool, exact: bool
) -> None:
    env, state = call.env, call.state
    what = " write to" if writes else " read from"
    low, high = checks.check_stack_bounds(env, state, reg, number, 0, size, what)
    frame = state.frames[reg.frame]
    assert low >= -STACK_BYTES
    if not (raw and low == high):
        shown = f"read from stack R{number}"
        checks.check_stack_init(env, state, reg, number, low, high + size - low, shown)
    hidden = f"invalid read from stack R{number} off {low} size {size}"
    check_no_pointers(env, frame, low, high + size - low, hidden)
    if not writes or size == 0:
        return
    dynptr.check_helper_writes(frame, low, high + size, number)
    if low == high and exact:
        call.writes.append(lambda: stack.write(frame, low, size, stack.MISC))
    else:
        trust = env.rules.uninit_stack
        call.writes.append(
            lambda: stack.write_somewhere(frame, low, high + size, zero=False, trust=trust)
        )


def _take_dynptr(call: _Call, reg: Reg, number: int) -> None:
    name = call.helper.name
    if name == "dynptr_from_mem":
        memory, size = call.regs[1], call.regs[2]
        if memory.type is not _VALUE:
            raise forbidden(
                Rule.DYNPTR,
                f"Unsupported reg type {memory.type.value} for bpf_dynptr_from_mem data",
                reason="only a map value stays where it is as long as the dynptr may live",
                culprit=memory,
            )
        checks.check_map_value(call.env, memory, 1, 0, size.var.umax, store=True)
    change = dynptr.dynptr_argument(call.env, call.state, reg, number, name, call.pc)
    if change is not None:
        call.writes.append(change)
    call.dynptr = dynptr.at(call.state, reg)
    if name == "dynptr_write" and call.dynptr is not None and call.dynptr.moves:
        call.writes.append(lambda: forget_packet(call.state, call.pc))


def _take_alloc_size(call: _Call, reg: Reg, number: int) -> None:
    if reg.var.mask:
        raise forbidden(
            Rule.HELPER_ARG,
            f"R{number} is not a known constant",
            reason="the size of what is reserved must be a constant",
            culprit=reg,
        )
    mark_precise(reg)
    # Kernels keep 32 bits of it. No ring buffer is that large: there is never such a record.
    call.alloc_size = reg.var.value & U32


def _check_fixed(call: _Call, number: int) -> None:
    """Memory of a size that the helper knows. What is written is aligned, too."""
    size = call.helper.fixed_sizes[number]
    writes = number in call.helper.writes
    if writes:
        checks.check_alignment(call.regs[number], 0, size, strict=True)
    _memory(call, number, size, writes=writes, raw=False)


def _take_reference(call: _Call, reg: Reg, number: int) -> None:
    """The register is what acquiring gave, and still held."""
    if reg.off or reg.var.mask or reg.var.value:
        raise Refused(
            Rule.HELPER_ARG,
            f"R{number} must have zero offset when passed to release func or trusted arg to kfunc",
            reason="it is released by the pointer that acquiring it gave",
            culprit=reg,
            certain=not reg.var.mask,
        )
    if all(held != reg.ref_id for held, _ in call.state.refs):
        raise Refused(
            Rule.RELEASE_UNOWNED,
            f"R{number} must be referenced when passed to release function",
            reason="it was released already, or is not the program's",
            culprit=reg,
            certain=True,
        )
    call.released = reg.ref_id


def _take_callback(call: _Call, reg: Reg, number: int) -> None:
    call.subprog = reg.subprog


def constant_string(env: Environment, reg: Reg, number: int) -> bytes:
    """The bytes of a string in a frozen, read-only map, without its NUL."""
    spec = reg.map
    assert spec is not None
    if not (spec.frozen and spec.flags & BPF_F_RDONLY_PROG and spec.data is not None):
        raise forbidden(
            Rule.HELPER_ARG,
            f"R{number} does not point to a readonly map'",
            reason="the string must be a constant: in .rodata",
            culprit=reg,
        )
    if reg.var.mask:
        raise forbidden(
            Rule.HELPER_ARG,
            f"R{number} is not a constant address'",
            reason="which string it is must be known",
            culprit=reg,
        )
    checks.check_map_value(env, reg, number, 0, 1, store=False)
    data = spec.data[reg.off + reg.var.value :]
    text, nul, _ = data.partition(b"\0")
    if not nul:
        raise forbidden(
            Rule.HELPER_ARG,
            "string is not zero-terminated",
            reason=f"no NUL follows in {spec.name}",
            culprit=reg,
        )
    return text


def _check_whole(call: _Call) -> None:
    """What concerns several arguments, or the whole call."""
    name, state = call.helper.name, call.state
    if name == "tail_call":
        if state.refs:
            raise reference_leak(state, "tail_call would lead to reference leak")
        check_unlocked(state, "tail_call")
        rcu.check_closed(state, "tail_call")
        check_one_map(call.env, call.pc, call.map_index)
        if any(frame.callback is not None for frame in state.frames):
            raise forbidden(
                Rule.HELPER_NOT_ALLOWED,
                "cannot tail call within callback",
                reason="a callback's helper would never be returned to",
            )
    elif name == "snprintf":
        _check_snprintf(call)


def _check_snprintf(call: _Call) -> None:
    length = call.regs[5].var
    if length.mask or length.value % 8 or length.value > 8 * _SNPRINTF_ARGS:
        raise forbidden(
            Rule.HELPER_ARG,
            "invalid length of snprintf data",
            reason=f"it must be a constant, a multiple of 8, at most {8 * _SNPRINTF_ARGS}",
            culprit=call.regs[5],
        )
    assert call.text is not None
    try:
        parse(call.text, length.value // 8)
    except FormatError as error:
        raise Refused(
            Rule.HELPER_ARG, "Invalid format string", reason=str(error), certain=True
        ) from None


def reference_leak(state: State, message: str) -> Refused:
    """The refusal of ending while a reference is held."""
    ref_id, acquired = state.refs[0]
    return Refused(
        Rule.REFERENCE_LEAK,
        f"Unreleased reference id={ref_id} alloc_insn={acquired}; {message}",
        reason=f"what was reserved at instruction {acquired} is neither submitted nor discarded on "
        "this path",
        suggestion="release it on every path, early returns included",
        certain=True,
    )


def forget_packet(state: State, pc: int) -> None:
    """Pointers to the packet are numbers now: the packet may lie elsewhere."""
    for frame in state.frames:
        for put, reg in places(frame):
            packet = reg.type in PACKET_TYPES or reg.type is RegType.PTR_TO_PACKET_END
            if packet or reg.trust & Trust.PACKET:
                put(unknown(pc))


def release(state: State, ref_id: int, pc: int) -> None:
    """The reference is given back: no pointer to what it was to is left."""
    state.refs = tuple(ref for ref in state.refs if ref[0] != ref_id)
    for frame in state.frames:
        for put, reg in places(frame):
            if reg.ref_id == ref_id:
                put(unknown(pc))


_POINTERS: Mapping[RetType, RegType] = {
    RetType.PTR_TO_ALLOC_MEM_OR_NULL: RegType.PTR_TO_RINGBUF_MEM_OR_NULL,
    RetType.PTR_TO_SOCKET_OR_NULL: RegType.PTR_TO_SOCKET_OR_NULL,
    RetType.PTR_TO_SOCK_COMMON_OR_NULL: RegType.PTR_TO_SOCK_COMMON_OR_NULL,
    RetType.PTR_TO_TCP_SOCK_OR_NULL: RegType.PTR_TO_TCP_SOCK_OR_NULL,
}
# What looking up in maps of these types gives; the last say whether it must be released.
_LOOKED_UP: Mapping[int, tuple[RegType, bool]] = {
    MapType.XSKMAP: (RegType.PTR_TO_XDP_SOCK_OR_NULL, False),
    MapType.SOCKMAP: (RegType.PTR_TO_SOCKET_OR_NULL, True),
    MapType.SOCKHASH: (RegType.PTR_TO_SOCKET_OR_NULL, True),
}


def _result(call: _Call, first: Reg) -> Reg:
    """What is in r0 afterwards; `first` was in r1."""
    env, pc, helper = call.env, call.pc, call.helper
    if helper.ret is RetType.VOID:
        return clobbered(pc)
    if helper.ret is RetType.INTEGER:
        return scalar(_integer(call), pc)
    if helper.ret is RetType.PTR_TO_MAP_VALUE_OR_NULL:
        return _looked_up(call)
    if helper.ret is RetType.PTR_TO_MAP_VALUE:
        return Pointer(_VALUE, pc, map=call.map, map_index=call.map_index)
    ref_id = first.ref_id if helper.casts else 0
    nullable = helper.ret is RetType.PTR_TO_BTF_ID_OR_NULL
    if (nullable or helper.ret is RetType.PTR_TO_BTF_ID) and btfhelpers.gives_object(helper.name):
        return btfhelpers.result(env, helper.name, pc, nullable=nullable, ref_id=ref_id)
    if helper.ret is RetType.PTR_TO_DYNPTR_MEM_OR_NULL and call.dynptr is not None:
        return dynptr.slice_of(env, call.dynptr, call.alloc_size, pc)
    kind = _POINTERS.get(helper.ret)
    if kind is None:
        raise unsupported(f"results of type {helper.ret.name} ({helper.name})")
    if helper.acquires:
        return _acquired(call, kind)
    return Pointer(kind, pc, id=env.new_id(), ref_id=ref_id)


def _acquired(call: _Call, kind: RegType) -> Pointer:
    """A pointer to what must be released."""
    new = call.env.new_id()
    call.state.refs = (*call.state.refs, (new, call.pc))
    return Pointer(kind, call.pc, id=new, ref_id=new, mem_size=call.alloc_size)


def _looked_up(call: _Call) -> Reg:
    spec = call.map
    assert spec is not None
    env = call.env
    if spec.type in (MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS):
        if spec.inner is None:
            raise unsupported(f"map of maps {spec.name} without a declared inner map")
        return Pointer(RegType.MAP_PTR_OR_NULL, call.pc, id=env.new_id(), map=spec.inner)
    if spec.type in _LOOKED_UP:
        kind, acquires = _LOOKED_UP[spec.type]
        return _acquired(call, kind) if acquires else Pointer(kind, call.pc, id=env.new_id())
    found = _VALUE
    key = call.constant_key
    if key is None or key >= spec.max_entries:
        found = RegType.PTR_TO_MAP_VALUE_OR_NULL
    return Pointer(
        found,
        call.pc,
        id=0 if found is _VALUE and not env.fields(spec) else env.new_id(),
        map=spec,
        map_index=call.map_index,
    )


def _integer(call: _Call) -> Scalar:
    name = call.helper.name
    if name == "get_smp_processor_id":
        return Scalar.range(0, _MAX_CPUS - 1)
    if call.helper.length:
        low, high = -_MAX_ERRNO, min(call.max_size, S32_MAX)
        found = sync(0, U64, low, high, 0, U64, max(low, S32_MIN), high, 0, U32)
        assert found is not None
        return found
    return Scalar.UNKNOWN
