"""What an ABI is, as data. The verifier reads it to judge, the VM and the ring to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


class CtxParts(Enum):
    """Which accesses to a context field name it."""

    WHOLE = "exactly its offset and size"
    START = "loads of its first bytes; stores of all of it"
    READ = "loads of any aligned part of it; stores of all of it"
    ANY = "any aligned part of it"


class CtxHolds(Enum):
    """What a context field holds when a program runs."""

    GIVEN = "what the host gave, or its default"
    DATA = "the address of the packet; a load gives all 64 bits, whatever its size"
    DATA_END = "the address behind the packet, likewise"
    DATA_META = "the address of the packet's metadata, likewise"
    USER_BLOCK = "the address of what user_data points to, where that is verified"
    RESULT = "the result of the wait that ended"
    LENGTH = "the packet's length in bytes"
    PROTOCOL = "the packet's EtherType, in network order"
    PACKET_TYPE = "to whom the packet is addressed"
    KERNEL_OBJECT = "something of a kernel, which does not exist here"


class CtxPointer(Enum):
    """What a load of a context field that stands for a kernel object points to; the value is the
    kernel's text for such a register."""

    SOCK_COMMON_OR_NULL = "sock_common_or_null"
    SOCKET = "sock"
    SOCKET_OR_NULL = "sock_or_null"
    FLOW_KEYS = "flow_keys"
    TP_BUFFER = "tp_buffer"
    KERNEL_STRUCT = "trusted_ptr_"


@dataclass(frozen=True, slots=True)
class CtxField:
    """A context field; accesses must have exactly its offset and size, or be of those `parts`.

    `default` is what a GIVEN field holds where the host gives 0 or nothing. `pointer` says what a
    load gives where that is no number and nothing of the packet.
    """

    name: str
    offset: int
    size: int
    writable: bool
    parts: CtxParts = CtxParts.WHOLE
    holds: CtxHolds = CtxHolds.GIVEN
    default: int = 0
    pointer: CtxPointer | None = None

    def named_by(self, offset: int, size: int, *, store: bool) -> bool:
        """Whether an access of `size` bytes at `offset` is one to this field."""
        if self.offset == offset and self.size == size:
            return True
        if self.parts is CtxParts.WHOLE or (store and self.parts is CtxParts.READ):
            return False
        if self.parts is CtxParts.START:
            return self.offset == offset and size < self.size
        inside = self.offset <= offset and offset + size <= self.offset + self.size
        return inside and offset % size == 0


@dataclass(frozen=True, slots=True)
class PacketRules:
    """How programs of a type meet the packet of a test run (BPF_PROG_TEST_RUN), a whole frame.

    The first `hidden_bytes`, its link-layer header, are not shown to the program, and are 0 in
    what the run gives back. `network_offset` is where the network header begins in what is
    shown. `writable`: through the context's packet pointers.
    """

    writable: bool
    hidden_bytes: int
    network_offset: int


class Sleepable(Enum):
    """Whether programs of an ABI may, must or can not be sleepable."""

    NEVER = "never"
    OPTIONAL = "optional"
    REQUIRED = "required"


class WaitBy(Enum):
    """How a run asks to be run again when CQEs have arrived."""

    NOTHING = "can not wait"
    WAIT_NR = "wait_nr is not 0 at exit"
    RETURN = "the return value is WAIT"


@dataclass(frozen=True, slots=True)
class RingRules:
    """How a ring of this ABI treats BPF requests (iouring-bpf-2021, sections 0.1, 1 and 3)."""

    bpf_opcode: int
    register_opcode: int
    unregister_opcode: int
    extra_cqs: bool
    cqe_skip: bool  # IOSQE_CQE_SKIP_SUCCESS exists
    wait_by: WaitBy
    wait_value: int  # the return value that means WAIT, for WaitBy.RETURN
    ctx_persists: bool  # wait_nr/wait_idx keep their values from run to run
    length_checked: bool  # submit and reap check their length argument at run time
    bad_sqe_joins_chain: bool  # a bad SQE with an open chain becomes a failed member (v3)
    submit_returns_errno: bool  # v1: 0 accepted, -errno bad and no CQE; later: 1 / 0 with a CQE
    # Of iouring-x: requests may have memory that their runs get, the return value that waits for a
    # futex (None: there is none), and whether opcodes behind BPF are those of mainline.
    contexts: bool = False
    futex_value: int | None = None
    later_opcodes: bool = False


class PacketAccess(Enum):
    """What programs may do through packet pointers."""

    NONE = "nothing: there are none"
    READ = "read"
    WRITE = "read and write"
    FREE = "read and write, and give any helper as memory"


class Region(Enum):
    """Memory of a ring that a program can get at."""

    MEM = "what the user registered"
    CQ = "queue heads and tails, CQEs, index array"
    SQ = "submission entries"


class LoopPlace(Enum):
    """Where an enter calls the program of its ring."""

    INSTEAD = "it takes the place of io_uring_enter"
    WAITING = "inside the wait of an enter with GETEVENTS"
    REQUEST = "for each request of an opcode of its own"


class LoopAnswer(Enum):
    """What an answer means that is neither `go_on` nor `stop`."""

    INVALID = "the enter fails with -EINVAL"
    STOPS = "the wait ends, and has this result if the CQ is empty; `stop`, too"
    GOES_ON = "as `go_on`"
    UNTOLD = "nobody wrote it down"


@dataclass(frozen=True, slots=True)
class LoopTimeout:
    """A wait's timeout in the parameters: u32 flags at `flags_at`, u64 ns at `ns_at`. Bits of the
    flags: there is one, it is a point of time, the wait before ended with it."""

    flags_at: int
    ns_at: int
    given: int = 1
    absolute: int = 2
    over: int = 4


@dataclass(frozen=True, slots=True)
class OperationRules:
    """Requests that are performed by programs: abi/iouring-bpf-upstream, section 8.

    SQEs of `opcode` have in the upper 8 bits of their op-flags which program it is, below `ids`;
    the lower 24 are the program's. A ring has programs of its own and needs `setup_flag` for them;
    0: programs are everybody's. A request has `data_bytes` for its programs, as `fields` (name,
    type, offset); the op-flags are at `flags_at`, and from `own_at` on they may write. `queued` is
    what a request that goes on later would answer, which these can not.
    """

    opcode: int
    ids: int
    setup_flag: int
    fields: tuple[tuple[str, str, int], ...]
    own_at: int
    data_bytes: int = 64
    flags_at: int = 16
    prepare: str = "prep"
    fail: str = "fail"
    cleanup: str = "cleanup"
    queued: int = -529


@dataclass(frozen=True, slots=True)
class LoopRules:
    """How programs drive a ring from inside io_uring_enter: abi/iouring-bpf-upstream, 1.3 to 3.4,
    and 7 to 9.2 for other dialects.

    A program is member `callback` of `struct ops`; it gets a `struct ctx` and a `struct params`.
    Where `ops` is "", it has a type of its own and gets the ring only; it says by a function for
    how many CQEs it waits. `members` of the struct are (name, type, offset), "step()" being the
    callback's type (others: `upstream_types`); `own` is the one that only the kernel sets. Of
    `writable` structs it may write the bytes [low, high) as (struct, low, high). `regions` are the
    ids that the region kfunc takes; the index to wait for is a u32 of the parameters, at
    `wait_index_at`. `ctx_bytes` of the ring's struct can be read (0: none). `stop` and `go_on` are
    what the program returns, `other` is what other answers mean. `deferred`: only rings with
    DEFER_TASKRUN take a program. `untold` fields of the parameters, as (name, offset, size), have a
    meaning that we do not know, unless they are zero. `gate` is a member that decides whether a
    poll's wake counts: its programs get an event and can not be sleepable. `operation`: the
    callbacks are what requests do; `callback` performs one, and `ctx` is not the ring but what a
    request has for its programs. `rebinds`: a map that is on a ring gets onto another one, and
    leaves the first one dangling.
    """

    ops: str
    callback: str
    ctx: str
    params: str
    params_fields: tuple[tuple[str, str, int], ...]
    params_bytes: int
    writable: tuple[tuple[str, int, int], ...]
    regions: Mapping[int, Region]
    members: tuple[tuple[str, str, int], ...]
    own: str = "priv"
    gate: str = ""
    operation: OperationRules | None = None
    place: LoopPlace = LoopPlace.INSTEAD
    other: LoopAnswer = LoopAnswer.INVALID
    deferred: bool = True
    timeout: LoopTimeout | None = None
    untold: tuple[tuple[str, int, int], ...] = ()
    wait_index_at: int = 0
    ctx_bytes: int = 0
    go_on: int = 0
    stop: int = 1
    rebinds: bool = False

    @property
    def of_structs(self) -> bool:
        """Whether programs are members of a struct."""
        return bool(self.ops)


@dataclass(frozen=True, slots=True)
class SectionRule:
    """Programs in sections that start with `prefix` belong to the profile, and are for
    `attach_type` (the kernel's number, 0 where there is only one or it makes no difference)."""

    prefix: str
    sleepable: bool = False
    exact: bool = False
    attach_type: int = 0

    def covers(self, section: str) -> bool:
        """Whether a section of this name falls under the rule."""
        return section == self.prefix or (not self.exact and section.startswith(self.prefix))


@dataclass(frozen=True, slots=True)
class Profile:
    """One ABI. `helpers` maps the numbers a program calls to names in `pybpfvm.helpers.table`.

    `returns` is the inclusive range of allowed return values, None where any is allowed.
    `types` are the C types programs see, as (struct name, size, ((field, offset, size), ...)),
    from which the built-in BTF for CO-RE is made. `packet` says how programs get a packet, None
    for types that run on none; `missing_helpers` names the helpers that the ABI has, or may have,
    and this version does not. `packet_access` is for loads and stores, `packet_loads` says whether
    LD_ABS and LD_IND are offered. `runs` is False for types that are verified and never run here.

    `experimental`: it was proposed, and no kernel was released with it. `objects_of`: the profile
    that has the same objects, so that none of them tells of this one.

    `family` is the program type of an ABI that is one of several with it; `loop` the rules of
    programs that drive a ring from inside io_uring_enter. `kfuncs` are the kernel's functions that
    can be executed: those of its BTF whose name without `bpf_` is in `pybpfvm.helpers.table`, or is
    there under the name in `kfunc_rows`, because other ABIs have another function of that name.

    What differs between the attach types of a program type is in `variants`: the same profile, as
    it is for the programs of one of them (`attach_type`). `for_section` picks the right one.
    """

    name: str
    title: str
    prog_type: int
    sections: tuple[SectionRule, ...]
    ctx_name: str
    ctx_bytes: int
    ctx_fields: tuple[CtxField, ...]
    helpers: Mapping[int, str]
    returns: tuple[int, int] | None
    sleepable: Sleepable
    ring: RingRules | None = None
    types: tuple[tuple[str, int, tuple[tuple[str, int, int], ...]], ...] = ()
    experimental: bool = False
    objects_of: str = ""
    notes: tuple[str, ...] = field(default=())
    packet: PacketRules | None = None
    missing_helpers: Mapping[int, str] = field(default_factory=dict)
    packet_access: PacketAccess = PacketAccess.NONE
    packet_loads: bool = False
    runs: bool = True
    attach_type: int = 0
    variants: tuple[Profile, ...] = ()
    family: str = ""
    loop: LoopRules | None = None
    kfuncs: tuple[str, ...] = ()
    kfunc_rows: Mapping[str, str] = field(default_factory=dict)

    def row_of(self, kfunc: str) -> str:
        """The name in the table of helpers of one of `kfuncs`."""
        return self.kfunc_rows.get(kfunc, kfunc.removeprefix("bpf_"))

    @property
    def type_name(self) -> str:
        """The program type's name, where several ABIs share one."""
        return self.family or self.name

    def section_rule(self, section: str) -> SectionRule | None:
        """The first rule that `section` falls under."""
        return next((rule for rule in self.sections if rule.covers(section)), None)

    @property
    def own_section(self) -> str:
        """A section whose programs are of this profile and attach type."""
        own = (rule for rule in self.sections if rule.attach_type == self.attach_type)
        return next(own, self.sections[0]).prefix

    def for_section(self, section: str) -> Profile:
        """The profile as it is for programs in `section`: of that section's attach type."""
        rule = self.section_rule(section)
        if rule is None or rule.attach_type == self.attach_type:
            return self
        for variant in self.variants:
            if variant.attach_type == rule.attach_type:
                return variant
        return self

    def ctx_field(self, offset: int, size: int) -> CtxField | None:
        """The field that an access of `size` bytes at `offset` names exactly, or None."""
        for ctx_field in self.ctx_fields:
            if ctx_field.offset == offset and ctx_field.size == size:
                return ctx_field
        return None

    def ctx_field_named(self, offset: int, size: int, *, store: bool) -> CtxField | None:
        """The field that an access names exactly or by one of its parts, or None."""
        for ctx_field in self.ctx_fields:
            if ctx_field.named_by(offset, size, store=store):
                return ctx_field
        return None
