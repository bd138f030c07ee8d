"""Pointers to kernel objects and to memory of known size: arguments, loads, comparisons, trust.

A load through a pointer to a kernel object follows the object's BTF (`btfwalk`). Whether what is
loaded is trusted depends on the pointer, on the member (structs named `X__safe_rcu` and the like
in the target's BTF list the members that inherit their object's trust) and on whether an RCU read
section is open. Programs that can not sleep run in one.
Kernel Documentation/bpf/kfuncs.rst (trusted pointers), graph of the running kernel's answers.
"""

from __future__ import annotations

from pybpfvm.btf.types import Btf, BtfKind, Ptr, Struct
from pybpfvm.program import MapType
from pybpfvm.verifier.checks import check_ctx_pointer, check_region
from pybpfvm.verifier.domains.scalar import load_result
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects import btfwalk
from pybpfvm.verifier.kernelobjects.btfwalk import Reached, struct_name
from pybpfvm.verifier.privileges.leaks import check_kernel_access
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.resources.fields import check_field_access
from pybpfvm.verifier.states.regstate import Pointer, Reg, RegType, Trust, is_trusted, scalar
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Rule

BTF_ID, BTF_ID_OR_NULL = RegType.PTR_TO_BTF_ID, RegType.PTR_TO_BTF_ID_OR_NULL
MEM, MEM_OR_NULL = RegType.PTR_TO_MEM, RegType.PTR_TO_MEM_OR_NULL
_WORD_BYTES = 8


def in_rcu_section(env: Environment, state: State) -> bool:
    """Whether what RCU protects stays alive here."""
    return state.regions.rcu > 0 or bool(state.locks) or not env.sleepable


def is_rcu(reg: Reg) -> bool:
    """Whether RCU keeps the object alive."""
    return bool(reg.trust & Trust.RCU)


def type_text(env: Environment, reg: Reg) -> str:
    """The type of a BTF pointer or of memory, as the kernel's log has it."""
    text = reg.type.value
    for trust, prefix in _PREFIXES:
        if reg.trust & trust:
            text = prefix + text
    if reg.type in (BTF_ID, BTF_ID_OR_NULL):
        text += struct_name(env.btf_of(reg), reg.btf_id)
    return text


_PREFIXES = (
    (Trust.TRUSTED, "trusted_"),
    (Trust.UNTRUSTED, "untrusted_"),
    (Trust.RCU, "rcu_"),
    (Trust.PERCPU, "percpu_"),
    (Trust.USER, "user_"),
    (Trust.RDONLY, "rdonly_"),
)


def check_attachment(env: Environment) -> None:
    """There is something that the program can be attached to, and its licence allows that."""
    attached = env.attachment
    if env.profile.type_name in ("lsm", "struct_ops") and not env.gpl:
        name = "LSM" if env.profile.type_name == "lsm" else "struct ops"
        raise forbidden(
            Rule.ATTACH_TARGET,
            f"{name} programs must have a GPL compatible license",
            reason=f"{attached.name} takes no program under {env.program.license!r}",
        )


def load_argument(env: Environment, pointer: Reg, number: int, off: int, size: int, pc: int) -> Reg:
    """What a load from the context of a program with BTF arguments gives."""
    check_ctx_pointer(pointer, number)
    attached = env.attachment
    index, inside = divmod(off, _WORD_BYTES)
    invalid = f"invalid bpf_context access off={off} size={size}"
    if off < 0 or off % size or inside or index >= len(attached.words):
        raise forbidden(
            Rule.CTX_ACCESS,
            invalid,
            reason=f"the context of {attached.name} has {len(attached.words)} words of 8 bytes",
            suggestion="read whole arguments: BPF_PROG() does",
        )
    word = attached.words[index]
    if word.unsupported:
        raise unsupported(word.unsupported)
    if word.problem:
        reason = f"func '{attached.name}' arg{index} {word.problem}"
        raise forbidden(Rule.CTX_ACCESS, invalid, reason=reason)
    if not word.btf_id:
        return scalar(load_result(size, False), pc)
    if size != _WORD_BYTES:
        raise forbidden(Rule.CTX_ACCESS, invalid, reason=f"{word.name} is a pointer of 8 bytes")
    return pointer_to(env, pc, word.btf_id, word.trust, nullable=word.nullable)


def pointer_to(
    env: Environment, pc: int, btf_id: int, trust: Trust, *, nullable: bool, ref_id: int = 0
) -> Pointer:
    """A pointer to an object of the target's BTF."""
    if nullable:
        new = ref_id or env.new_id()
        return Pointer(BTF_ID_OR_NULL, pc, id=new, ref_id=ref_id, btf_id=btf_id, trust=trust)
    return Pointer(BTF_ID, pc, ref_id=ref_id, btf_id=btf_id, trust=trust)


def load(
    env: Environment,
    state: State,
    pointer: Reg,
    number: int,
    off: int,
    size: int,
    signed: bool,
    pc: int,
) -> Reg:
    """What a load through a pointer to a kernel object gives."""
    reached = check_access(env, pointer, number, off, size)
    if reached.memory:
        return Pointer(MEM, pc, trust=Trust.RDONLY | Trust.UNTRUSTED)
    if pointer.trust & Trust.ALLOC:
        return scalar(load_result(size, signed), pc)  # what programs store is no pointer to trust
    if not reached.btf_id:
        return scalar(load_result(size, signed), pc)
    trust, nullable = _inherited(env, state, pointer, reached)
    trust |= pointer.trust & Trust.LOCAL
    found = pointer_to(env, pc, reached.btf_id, trust, nullable=nullable)
    if trust & Trust.TRUSTED:
        found.owner = pointer.owner  # it is as alive as what it was loaded from
    return found


# What the kernel's own structs are that maps of a type are handles of.
_MAP_STRUCTS = {
    MapType.ARRAY: "bpf_array",
    MapType.PERCPU_ARRAY: "bpf_array",
    MapType.PROG_ARRAY: "bpf_array",
    MapType.PERF_EVENT_ARRAY: "bpf_array",
    MapType.ARRAY_OF_MAPS: "bpf_array",
    MapType.HASH: "bpf_htab",
    MapType.PERCPU_HASH: "bpf_htab",
    MapType.LRU_HASH: "bpf_htab",
    MapType.LRU_PERCPU_HASH: "bpf_htab",
    MapType.HASH_OF_MAPS: "bpf_htab",
    MapType.RINGBUF: "bpf_ringbuf_map",
    MapType.QUEUE: "bpf_queue_stack",
    MapType.STACK: "bpf_queue_stack",
    MapType.LPM_TRIE: "lpm_trie",
}


def load_map(env: Environment, pointer: Reg, number: int, off: int, size: int, pc: int) -> Refused:
    """The refusal of a load through the handle of a map. Kernels let programs read the struct
    behind it, which maps here do not have."""
    assert pointer.map is not None
    name = _MAP_STRUCTS.get(MapType(pointer.map.type))
    btf_id = None
    if name is not None and env.target is not None:
        btf_id = env.target.find(name, BtfKind.STRUCT)
    if btf_id is not None:
        check_access(env, Pointer(BTF_ID, pc, btf_id=btf_id), number, off, size)
    return unsupported(f"reading the kernel's own fields of map {pointer.map.name}")


def check_access(env: Environment, pointer: Reg, number: int, off: int, size: int) -> Reached:
    """The bytes are those of a member of the object; what lies there."""
    btf = env.btf_of(pointer)
    # Of a kernel's objects only a ring and its parameters are here. What map values hold as a
    # pointer any program may have written there.
    if env.profile.loop is None or pointer.trust != Trust.TRUSTED:
        env.probes = True
    check_kernel_access(env, struct_name(btf, pointer.btf_id), pointer)
    own = pointer.trust & Trust.ALLOC
    if own and pointer.trust & Trust.UNTRUSTED:
        raise forbidden(
            Rule.TRUST,
            "allocated object must have a referenced id",
            reason="what kept the object alive is over: the RCU read section that it was loaded in",
            suggestion="use it before bpf_rcu_read_unlock(), or load it again",
            culprit=pointer,
        )
    off += pointer.off
    var = pointer.var
    if not var.mask:
        off += var.smin
    named = f"R{number} is ptr_{struct_name(btf, pointer.btf_id)}"
    if off < 0:
        raise forbidden(
            Rule.BTF_ACCESS,
            f"{named} invalid negative access: off={off}",
            reason="the access begins before the object",
            culprit=pointer,
        )
    if var.mask:
        raise forbidden(
            Rule.BTF_ACCESS,
            f"{named} invalid variable offset: off={off}, "
            f"var_off=(0x{var.value:x}; 0x{var.mask:x})",
            reason="members are accessed at constant offsets only",
            suggestion="read whole members"
            + (
                "; bpf_probe_read_kernel takes computed addresses"
                if "probe_read_kernel" in env.profile.helpers.values()
                else ""
            ),
            culprit=pointer,
        )
    for trust, text in ((Trust.USER, "user"), (Trust.PERCPU, "percpu")):
        if pointer.trust & trust:
            raise forbidden(
                Rule.BTF_ACCESS,
                f"{named} access {text} memory: off={off}",
                reason=f"this is an address of {text} memory, which can not be read directly",
                suggestion="bpf_probe_read_user"
                if trust is Trust.USER
                else "bpf_per_cpu_ptr or bpf_this_cpu_ptr first",
                culprit=pointer,
            )
    if own:
        check_field_access(env.object_fields(pointer.btf_id), pointer, off, off, size)
    return btfwalk.walk(btf, pointer.btf_id, off, size)


def context_store(pointer: Reg, number: int, off: int, size: int) -> Refused:
    """The refusal of a store into the context of a program with BTF arguments."""
    check_ctx_pointer(pointer, number)
    return forbidden(
        Rule.CTX_ACCESS,
        f"invalid bpf_context access off={off} size={size}",
        reason="arguments can not be changed",
    )


def check_store(env: Environment, pointer: Reg, number: int, off: int, size: int) -> None:
    """A store into an object: programs may change their own, and of a kernel object what the
    profile lets them. Raises Refused."""
    if pointer.trust & Trust.ALLOC and not pointer.trust & Trust.UNTRUSTED:
        check_access(env, pointer, number, off, size)
        return
    loop = env.profile.loop
    if loop is None or pointer.trust != Trust.TRUSTED or pointer.type is not BTF_ID:
        raise _store_refused(env, pointer, number)
    check_access(env, pointer, number, off, size)
    name = struct_name(env.btf_of(pointer), pointer.btf_id)
    start = off + pointer.off + pointer.var.smin
    for struct, low, high in loop.writable:
        if struct == name and low <= start and start + size <= high:
            return
    writable = ", ".join(
        f"bytes {low} to {high} of {struct}" for struct, low, high in loop.writable
    )
    raise forbidden(
        Rule.READ_ONLY,
        f"write access at off {start} with size {size} beyond the members of {name} that programs "
        "may write",
        reason=f"of the kernel's structs programs of {env.profile.name} write {writable} only",
        culprit=pointer,
    )


def _store_refused(env: Environment, pointer: Reg, number: int) -> Refused:
    """The refusal of a store into a kernel object."""
    if env.profile.type_name == "struct_ops" and env.profile.loop is None:
        return unsupported("stores into the arguments of struct_ops programs")
    return forbidden(
        Rule.READ_ONLY,
        "only read is supported",
        reason=f"r{number} points to a kernel object, which programs can not change",
        culprit=pointer,
    )


def _inherited(
    env: Environment, state: State, pointer: Reg, reached: Reached
) -> tuple[Trust, bool]:
    """(trust, may be NULL) of a pointer that was loaded from an object."""
    if pointer.trust & Trust.UNTRUSTED:
        return Trust.UNTRUSTED, False
    found = reached.trust
    plain = found & ~(Trust.RCU | Trust.TRUSTED | Trust.UNTRUSTED)
    if not (is_trusted(pointer) or is_rcu(pointer)):
        return plain, False
    btf = env.btf_of(pointer)
    outer = struct_name(btf, pointer.btf_id)

    def listed(list_: str) -> bool:
        return _is_listed(btf, f"{outer}__safe_{list_}", reached)

    if listed("trusted"):
        return found | Trust.TRUSTED, False
    if listed("trusted_or_null"):
        return found | Trust.TRUSTED, True
    if not in_rcu_section(env, state):
        return Trust.UNTRUSTED, False
    if listed("rcu"):
        return found | Trust.RCU, False
    if listed("rcu_or_null"):
        return (found | Trust.RCU) & ~Trust.UNTRUSTED, True
    if found & Trust.RCU:
        return found, True
    if found & (Trust.PERCPU | Trust.USER):
        return found, False
    return plain, False


def _is_listed(btf: Btf, name: str, reached: Reached) -> bool:
    """Whether the struct `name` has the member, with the same type."""
    found = btf.find(name, BtfKind.STRUCT)
    struct = btf.type(found) if found is not None else None
    if not isinstance(struct, Struct):
        return False
    for member in struct.members:
        if member.name == reached.member:
            pointer = btf.type(btf.resolve(member.type_id))
            return isinstance(pointer, Ptr) and btf.resolve(pointer.type_id) == reached.btf_id
    return False


def check_memory(
    env: Environment, reg: Reg, number: int, off: int, size: int, *, store: bool
) -> None:
    """An access to memory of known size, or to memory that loads probe."""
    if store and reg.trust & Trust.RDONLY:
        name = "rdonly_untrusted_mem" if reg.trust & Trust.UNTRUSTED else "rdonly_mem"
        raise forbidden(
            Rule.READ_ONLY,
            f"R{number} cannot write into {name}",
            reason="this memory is for reading only",
            culprit=reg,
        )
    if reg.trust & Trust.UNTRUSTED:
        env.probes = True
        return
    invalid = f"invalid access to memory, mem_size={reg.mem_size} off={{off}} size={{size}}"
    check_region(reg, number, off, size, reg.mem_size, Rule.MEM_ACCESS, invalid)
