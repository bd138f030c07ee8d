"""What is known of one register: its type, and for numbers and pointers their value.

A `Reg` never changes once built, with one exception: `precise`, which only ever goes from False
to True (see `mark_precise`). States share Regs freely, so copying a state copies references.

Precision. Most numbers a program computes can not make it unsafe: no address, size or branch
decision of the verifier hangs on them. Two states that differ in such numbers only need not both
be explored. Every number that was computed from others keeps them as `deps`. When the verifier
uses what it knows of a number (an address, a size, a branch that only one arm is possible of),
`mark_precise` marks it and everything it came from. A stored state shares the marked Regs, so it
learns which of its numbers mattered to what was explored from it. That is sound because each
value of a later state was computed from values of the stored one along `deps`: whatever number
of the stored state influenced a decision is reached by the walk. A number whose range is
everything its width allows depends on nothing and has no deps.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, IntFlag
from typing import TYPE_CHECKING, NamedTuple

from pybpfvm.program import MapSpec
from pybpfvm.verifier.domains.scalar import Scalar

if TYPE_CHECKING:
    from pybpfvm.verifier.usermemory.origin import Origin


class RegType(Enum):
    """Types of registers; the value is the kernel's text for it."""

    # Members are looked up in sets for most instructions, and there is one object of each.
    __hash__ = object.__hash__

    NOT_INIT = "?"
    SCALAR_VALUE = "scalar"
    PTR_TO_CTX = "ctx"
    CONST_PTR_TO_MAP = "map_ptr"
    PTR_TO_MAP_VALUE = "map_value"
    PTR_TO_MAP_VALUE_OR_NULL = "map_value_or_null"
    MAP_PTR_OR_NULL = "map_ptr_or_null"  # what a lookup in a map of maps gives
    PTR_TO_MAP_KEY = "map_key"
    PTR_TO_STACK = "fp"
    PTR_TO_PACKET = "pkt"
    PTR_TO_PACKET_META = "pkt_meta"
    PTR_TO_PACKET_END = "pkt_end"
    PTR_TO_RINGBUF_MEM = "ringbuf_mem"
    PTR_TO_RINGBUF_MEM_OR_NULL = "ringbuf_mem_or_null"
    PTR_TO_FUNC = "func"
    PTR_TO_BTF_ID = "ptr_"
    PTR_TO_BTF_ID_OR_NULL = "ptr_or_null_"
    PTR_TO_MEM = "mem"
    PTR_TO_MEM_OR_NULL = "mem_or_null"
    PTR_TO_SOCK_COMMON = "sock_common"
    PTR_TO_SOCK_COMMON_OR_NULL = "sock_common_or_null"
    PTR_TO_SOCKET = "sock"
    PTR_TO_SOCKET_OR_NULL = "sock_or_null"
    PTR_TO_TCP_SOCK = "tcp_sock"
    PTR_TO_TCP_SOCK_OR_NULL = "tcp_sock_or_null"
    PTR_TO_XDP_SOCK = "xdp_sock"
    PTR_TO_XDP_SOCK_OR_NULL = "xdp_sock_or_null"
    PTR_TO_FLOW_KEYS = "flow_keys"
    PTR_TO_TP_BUFFER = "tp_buffer"
    CONST_PTR_TO_DYNPTR = "dynptr_ptr"
    PTR_TO_ARENA = "arena"


class Trust(IntFlag):
    """What is known of where a BTF pointer, or one to memory, comes from."""

    NONE = 0
    TRUSTED = 1  # valid, and kept alive while the program runs
    RCU = 2  # valid until the RCU read section ends
    UNTRUSTED = 4  # may be anything: loads are probed, and give 0 where they fail
    PERCPU = 8  # an offset of per-CPU data, for bpf_per_cpu_ptr
    USER = 16  # an address of user space
    RDONLY = 32  # memory that can not be written
    ALLOC = 64  # the program's own object, of a type of the object's BTF
    SLICE = 1024  # memory of a dynptr, as kfuncs give it
    PACKET = 2048  # memory that is lost when the packet moves
    NON_OWNING = 4096  # one that a collection owns, or a map value: valid under its lock
    LOCAL = 8192  # of a type of the object's BTF, without being known to be such an object


# What a comparison with 0 makes of a pointer that may be NULL.
NON_NULL = {
    RegType.PTR_TO_MAP_VALUE_OR_NULL: RegType.PTR_TO_MAP_VALUE,
    RegType.MAP_PTR_OR_NULL: RegType.CONST_PTR_TO_MAP,
    RegType.PTR_TO_RINGBUF_MEM_OR_NULL: RegType.PTR_TO_RINGBUF_MEM,
    RegType.PTR_TO_BTF_ID_OR_NULL: RegType.PTR_TO_BTF_ID,
    RegType.PTR_TO_MEM_OR_NULL: RegType.PTR_TO_MEM,
    RegType.PTR_TO_SOCK_COMMON_OR_NULL: RegType.PTR_TO_SOCK_COMMON,
    RegType.PTR_TO_SOCKET_OR_NULL: RegType.PTR_TO_SOCKET,
    RegType.PTR_TO_TCP_SOCK_OR_NULL: RegType.PTR_TO_TCP_SOCK,
    RegType.PTR_TO_XDP_SOCK_OR_NULL: RegType.PTR_TO_XDP_SOCK,
}
PACKET_TYPES = frozenset({RegType.PTR_TO_PACKET, RegType.PTR_TO_PACKET_META})


class Shift(NamedTuple):
    """What one addition of `width` bits made of a copy: 32 bits wrap, and clear the upper half."""

    delta: int
    width: int


class Reg:
    """A register that is uninitialised or holds a number; pointers are a `Pointer`.

    `var` is the number, or what is added to the pointer besides `off`. Numbers with the same
    nonzero `id` are the same number, but for what their `shift`s add to it. `at` is the pc of the
    instruction that wrote it, -1 for the program's arguments.
    """

    __slots__ = ("at", "deps", "id", "precise", "shift", "type", "var")

    off: int = 0
    map: MapSpec | None = None
    map_index: int = -1
    range: int = 0
    mem_size: int = 0
    ref_id: int = 0
    owner: int = 0
    buffer: int = 0
    frame: int = 0
    subprog: int = -1
    btf_id: int = 0
    trust: Trust = Trust.NONE
    origin: Origin | None = None

    def __init__(
        self,
        type: RegType,
        var: Scalar,
        at: int,
        deps: tuple[Reg, ...] = (),
        id: int = 0,
        shift: Shift | None = None,
    ) -> None:
        self.type = type
        self.var = var
        self.at = at
        self.deps = deps
        self.id = id
        self.shift = shift
        self.precise = False

    def __repr__(self) -> str:
        return f"<{self.type.value} {self.var!r} id={self.id}>"

    def like(self, var: Scalar, deps: tuple[Reg, ...], id: int, shift: Shift | None) -> Reg:
        """What is now known of the same number: it comes from where this one does."""
        return Reg(self.type, var, self.at, deps, id, shift)


class Pointer(Reg):
    """A pointer: `off` bytes and `var` into what its type, and these, say.

    `map` (and its index in the object, -1 for inner maps) for map pointers and values; `range`
    bytes behind a packet pointer's base are known to be in the packet; `mem_size` bytes of memory;
    `ref_id` of what must be released; `owner`: the id of the iterator or dynptr that this is gone
    with; `frame` number of a stack pointer, or of the `buffer` on the stack (its offset there) that
    the memory may lie in; `subprog` pc of a
    function; `btf_id` of the type that a BTF pointer is to, and its `trust`. Pointers with the
    same nonzero `id` came from the same place: NULL together, or the
    same unknown distance into the packet.
    """

    __slots__ = (
        "btf_id",
        "buffer",
        "frame",
        "map",
        "map_index",
        "mem_size",
        "off",
        "owner",
        "range",
        "ref_id",
        "subprog",
        "trust",
    )

    def __init__(
        self,
        type: RegType,
        at: int,
        *,
        off: int = 0,
        var: Scalar | None = None,
        id: int = 0,
        map: MapSpec | None = None,
        map_index: int = -1,
        range: int = 0,
        mem_size: int = 0,
        ref_id: int = 0,
        owner: int = 0,
        buffer: int = 0,
        frame: int = 0,
        subprog: int = -1,
        btf_id: int = 0,
        trust: Trust = Trust.NONE,
    ) -> None:
        Reg.__init__(self, type, ZERO if var is None else var, at, (), id)
        self.off = off
        self.map = map
        self.map_index = map_index
        self.range = range
        self.mem_size = mem_size
        self.ref_id = ref_id
        self.owner = owner
        self.buffer = buffer
        self.frame = frame
        self.subprog = subprog
        self.btf_id = btf_id
        self.trust = trust

    def moved(
        self, at: int, off: int, var: Scalar, *, id: int | None = None, range: int | None = None
    ) -> Pointer:
        """The same pointer elsewhere in its object."""
        other = Pointer.__new__(Pointer)
        other.type = self.type
        other.var = var
        other.at = at
        other.deps = ()
        other.id = self.id if id is None else id
        other.shift = None
        other.precise = False
        other.off = off
        other.map = self.map
        other.map_index = self.map_index
        other.range = self.range if range is None else range
        other.mem_size = self.mem_size
        other.ref_id = self.ref_id
        other.owner = self.owner
        other.buffer = self.buffer
        other.frame = self.frame
        other.subprog = self.subprog
        other.btf_id = self.btf_id
        other.trust = self.trust
        return other

    def of_type(self, type: RegType, id: int) -> Pointer:
        """The same place under another type."""
        result = self.moved(self.at, self.off, self.var, id=id)
        result.type = type
        return result

    def trusted_as(self, trust: Trust) -> Pointer:
        """The same place with another trust."""
        result = self.moved(self.at, self.off, self.var)
        result.trust = trust
        return result

    def __repr__(self) -> str:
        return f"<{self.type.value} off={self.off} {self.var!r} id={self.id}>"


ZERO = Scalar.const(0)
_SCALAR, _NOT_INIT = RegType.SCALAR_VALUE, RegType.NOT_INIT
NOT_INIT = Reg(_NOT_INIT, Scalar.UNKNOWN, -1)


def scalar(var: Scalar, at: int, deps: tuple[Reg, ...] = (), id: int = 0) -> Reg:
    """A number."""
    return Reg(_SCALAR, var, at, deps, id)


def unknown(at: int) -> Reg:
    """Any number."""
    return Reg(_SCALAR, Scalar.UNKNOWN, at)


def clobbered(at: int) -> Reg:
    """What a call leaves in registers that it does not keep: nothing that may be read."""
    return Reg(_NOT_INIT, Scalar.UNKNOWN, at)


def mark_precise(reg: Reg) -> None:
    """Note that safety hangs on this number, and so on what it was computed from.

    Each Reg is walked once in its life: the cost is that of building them.
    """
    if reg.precise:
        return
    work = [reg]
    while work:
        one = work.pop()
        if not one.precise:
            one.precise = True
            work.extend(one.deps)


def shared(reg: Reg, new_id: Callable[[], int]) -> Reg:
    """A number that is about to be copied: it gets an id, so that what a branch tells of one
    copy is known of all. Constants need none."""
    if not reg.var.mask or (reg.id and reg.shift is None):
        return reg
    if reg.origin is not None:
        return reg.like(reg.var, (reg,), new_id(), None)
    return Reg(_SCALAR, reg.var, reg.at, (reg,), new_id())


def is_null(reg: Reg) -> bool:
    """Whether this is the number 0."""
    return reg.type is _SCALAR and not reg.var.mask and not reg.var.value


def is_trusted(reg: Reg) -> bool:
    """Whether an object is known to be valid and to stay so: held by the program, by what runs it,
    or by what the program's lock guards."""
    if reg.ref_id:
        return True
    return bool(reg.trust) and not reg.trust & ~_TRUSTED


_TRUSTED = Trust.TRUSTED | Trust.ALLOC | Trust.NON_OWNING


def same_reg(one: Reg, other: Reg) -> bool:
    """Whether nothing wrote or narrowed a register in between: both are one, or one is the other
    as a stored state has it."""
    return one is other or (
        one.type is other.type
        and one.at == other.at
        and one.var is other.var
        and one.off == other.off
        and (one.id, one.shift, one.range) == (other.id, other.shift, other.range)
    )
