"""Parameters of global functions: what the function may rely on, and what its callers must give.

A global function is verified by itself, for everything that its parameters' types and tags allow:
numbers, the context, memory of the size of what the pointer is to (which may be NULL unless it is
tagged `arg:nonnull`), dynptrs, objects of the kernel's (`arg:trusted`, and `arg:nullable`),
pointers that loads are probed through (`arg:untrusted`) and pointers into the arena (`arg:arena`).
Kernel Documentation/bpf/verifier.rst; tags as libbpf spells them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pybpfvm.btf.types import (
    Btf,
    BtfKind,
    DeclTag,
    Enum64,
    Func,
    FuncProto,
    Int,
    Ptr,
    Struct,
    Typedef,
    Void,
    essential_name,
)
from pybpfvm.btf.types import Enum as BtfEnum
from pybpfvm.errors import InputError
from pybpfvm.profiles.base import PacketAccess
from pybpfvm.program import Subprog
from pybpfvm.verifier.arena import ARENA
from pybpfvm.verifier.calls import memory_argument
from pybpfvm.verifier.checks import check_ctx_pointer, check_readable
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects.btfhelpers import check_object
from pybpfvm.verifier.kernelobjects.btfptr import pointer_to
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.resources import dynptr
from pybpfvm.verifier.states.regstate import (
    NON_NULL,
    PACKET_TYPES,
    Pointer,
    Reg,
    RegType,
    Trust,
    is_null,
    is_trusted,
    mark_precise,
    unknown,
)
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Rule

_MAX_ARGS = 5
_WORD_BYTES = 8
_TAG = "arg:"
_KNOWN_TAGS = frozenset({"arena", "ctx", "nonnull", "nullable", "trusted", "untrusted"})
_UNTRUSTED_SINCE = (6, 17)


class Takes(Enum):
    """What a parameter is."""

    NUMBER = "a number"
    CTX = "the context"
    MEMORY = "memory"
    DYNPTR = "a dynptr"
    ARENA = "a pointer into the arena"
    OBJECT = "a pointer to a kernel object that is kept alive"
    UNTRUSTED = "a pointer that loads are probed through"


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter; `size` in bytes, for memory; `btf_id` in the target's BTF, for objects and
    what is untrusted (0: memory)."""

    takes: Takes
    size: int = 0
    nullable: bool = False
    btf_id: int = 0


def parameters(env: Environment, function: Subprog) -> tuple[Parameter, ...]:
    """What the function takes; its result is a number.

    Refused if it takes or gives what no kernel lets it, and as unsupported if its type is not
    known or it takes anything else.
    """
    btf = env.obj.btf
    feature = f"calls of the global function {function.name}"
    if btf is None or not function.btf_type_id or function.btf_type_id not in btf:
        raise unsupported(f"{feature}, whose type is not known")
    found = btf.type(function.btf_type_id)
    proto = btf.type(found.type_id) if isinstance(found, Func) else None
    if not isinstance(proto, FuncProto) or len(proto.params) > _MAX_ARGS:
        raise unsupported(f"{feature}, whose type is not known")
    tags = _tags(btf, function.btf_type_id)
    try:
        _check_result(env, btf, function.name, feature, proto.return_id)
        return tuple(
            _parameter(env, btf, feature, param.name, param.type_id, tags.get(index, frozenset()))
            for index, param in enumerate(proto.params)
        )
    except InputError as error:
        raise unsupported(f"{feature}: {error}") from None


def _check_result(env: Environment, btf: Btf, name: str, feature: str, type_id: int) -> None:
    if _is_number(btf, type_id):
        return
    nothing = isinstance(btf.type(btf.resolve(type_id)), Void)
    if nothing and (env.profile.loop is not None or env.rules.version > (6, 18)):
        raise unsupported(f"{feature}, which returns nothing")
    raise forbidden(
        Rule.HELPER_ARG,
        f"Global function {name}() doesn't return scalar. Only those are supported.",
        reason="a global function is verified by itself: of what it returns it is only known to be "
        "a number",
        suggestion="make the function static, or let it return a number",
    )


def _tags(btf: Btf, func_id: int) -> dict[int, frozenset[str]]:
    """The `arg:` tags of each parameter, by number from 0."""
    found: dict[int, frozenset[str]] = {}
    for type_id in btf.ids_of(BtfKind.DECL_TAG):
        tag = btf.type(type_id)
        assert isinstance(tag, DeclTag)
        if tag.type_id == func_id and tag.component >= 0 and tag.name.startswith(_TAG):
            name = tag.name.removeprefix(_TAG)
            found[tag.component] = found.get(tag.component, frozenset()) | {name}
    return found


def _parameter(
    env: Environment, btf: Btf, feature: str, name: str, type_id: int, tags: frozenset[str]
) -> Parameter:
    strange = tags - _KNOWN_TAGS
    if strange:
        raise unsupported(f"{feature}, whose parameter {name} is tagged {min(strange)}")
    if _is_number(btf, type_id):
        return Parameter(Takes.NUMBER)
    pointer = btf.type(btf.resolve(type_id))
    if not isinstance(pointer, Ptr):
        raise _never_taken(name, "is neither a number nor a pointer")
    if tags & _ALONE:
        if tags - _MAY_BE_NULL and len(tags) > 1:
            raise forbidden(
                Rule.HELPER_ARG,
                f"parameter {name} has an invalid combination of tags",
                reason=f"{', '.join(sorted(tags))}: only trusted and nullable go together",
            )
        return _of_tags(env, btf, name, pointer.type_id, tags)
    if "ctx" in tags or _is_ctx(env, btf, pointer.type_id):
        return Parameter(Takes.CTX)
    target = btf.resolve(pointer.type_id)
    if btf.name(target) == "bpf_dynptr":
        if tags:
            raise unsupported(f"{feature}, whose parameter {name} is a dynptr, and tagged")
        return Parameter(Takes.DYNPTR)
    kind = btf.kind(target)
    if kind not in _SIZED:
        raise _never_taken(name, "is a pointer, and the size of what it is to is not known")
    if _is_special(btf, target):
        raise unsupported(f"{feature}, whose parameter {name} is a {btf.name(target)}")
    return Parameter(Takes.MEMORY, btf.size(target), nullable="nonnull" not in tags)


def _never_taken(name: str, why: str) -> Refused:
    return forbidden(
        Rule.HELPER_ARG,
        f"parameter {name} of a global function {why}",
        reason="a global function is verified by itself, for all that its parameters' types allow",
        suggestion="make the function static, or give the parameter a type of known size",
    )


_MAY_BE_NULL = frozenset({"trusted", "nullable"})
_ALONE = frozenset({"arena", "trusted", "untrusted"})


def _of_tags(env: Environment, btf: Btf, name: str, target: int, tags: frozenset[str]) -> Parameter:
    """A parameter that its tags, not its type, say most of."""
    if "arena" in tags:
        return Parameter(Takes.ARENA)
    if "trusted" in tags:
        wanted = _object_type(env, btf, name, target)
        return Parameter(Takes.OBJECT, nullable="nullable" in tags, btf_id=wanted)
    if env.rules.version < _UNTRUSTED_SINCE:
        raise unsupported("parameters that are tagged untrusted on kernels before 6.17")
    kind = btf.kind(btf.resolve(target))
    if kind in (BtfKind.VOID, BtfKind.INT, BtfKind.ENUM, BtfKind.ENUM64):
        return Parameter(Takes.UNTRUSTED)
    return Parameter(Takes.UNTRUSTED, btf_id=_object_type(env, btf, name, target))


def _object_type(env: Environment, btf: Btf, name: str, target: int) -> int:
    """The target's struct of the same name, its flavour apart."""
    local = btf.resolve(target)
    if btf.kind(local) is not BtfKind.STRUCT:
        raise unsupported(f"the tags of parameter {name}, which points to no struct")
    if env.target is None:
        raise unsupported(f"parameter {name}, a kernel object, without the target's BTF")
    found = env.target.find_flavours(essential_name(btf.name(local)), BtfKind.STRUCT)
    if not found:
        raise forbidden(
            Rule.BTF_ACCESS,
            f"reference type('STRUCT {btf.name(local)}') has no matches",
            reason=f"parameter {name} is tagged as a kernel object, and the kernel has none of it",
        )
    if len(found) > 1:
        raise unsupported(f"parameter {name}: the kernel has several structs {btf.name(local)}")
    return found[0]


_SIZED = frozenset(
    {
        BtfKind.INT,
        BtfKind.ENUM,
        BtfKind.ENUM64,
        BtfKind.FLOAT,
        BtfKind.PTR,
        BtfKind.ARRAY,
        BtfKind.STRUCT,
        BtfKind.UNION,
    }
)


def _is_number(btf: Btf, type_id: int) -> bool:
    found = btf.type(btf.resolve(type_id))
    return isinstance(found, Int | BtfEnum | Enum64) and found.size <= _WORD_BYTES


def _is_ctx(env: Environment, btf: Btf, type_id: int) -> bool:
    """Whether the type is what programs of this type have as context, by its name."""
    found = btf.type(btf.skip_modifiers(type_id))
    if isinstance(found, Typedef):
        return found.name == "bpf_user_pt_regs_t" and env.profile.name in ("kprobe", "perf_event")
    return isinstance(found, Struct) and found.name == env.profile.ctx_name


def _is_special(btf: Btf, type_id: int) -> bool:
    """Whether pointers to the type stand for something else than memory."""
    return btf.name(type_id) == "bpf_arena"


def initial(env: Environment, wanted: tuple[Parameter, ...]) -> list[Reg]:
    """r1 to r5 as the function finds them."""
    return [_initial(env, one) for one in wanted]


def _initial(env: Environment, wanted: Parameter) -> Reg:
    if wanted.takes is Takes.CTX:
        return Pointer(RegType.PTR_TO_CTX, -1)
    if wanted.takes is Takes.NUMBER:
        return unknown(-1)
    if wanted.takes is Takes.ARENA:
        return Pointer(ARENA, -1)
    if wanted.takes is Takes.OBJECT:
        return pointer_to(env, -1, wanted.btf_id, Trust.TRUSTED, nullable=wanted.nullable)
    if wanted.takes is Takes.UNTRUSTED:
        if wanted.btf_id:
            return pointer_to(env, -1, wanted.btf_id, Trust.UNTRUSTED, nullable=False)
        return Pointer(RegType.PTR_TO_MEM, -1, trust=Trust.RDONLY | Trust.UNTRUSTED)
    if wanted.takes is Takes.DYNPTR:
        # The caller's may be one to the packet, where programs have one.
        packet = env.profile.packet_access is not PacketAccess.NONE
        trust = Trust.PACKET if packet else Trust.NONE
        return Pointer(RegType.CONST_PTR_TO_DYNPTR, -1, id=env.new_id(), trust=trust)
    if wanted.nullable:
        kind = RegType.PTR_TO_MEM_OR_NULL
        return Pointer(kind, -1, id=env.new_id(), mem_size=wanted.size)
    return Pointer(RegType.PTR_TO_MEM, -1, mem_size=wanted.size)


def check_arguments(
    env: Environment,
    state: State,
    pc: int,
    name: str,
    wanted: tuple[Parameter, ...],
    *,
    moves: bool,
) -> None:
    """The caller's r1 to r5 are what the function relies on. The function may write all memory
    that it gets; `moves`: it may move the packet. Raises Refused."""
    after: list[Callable[[], None]] = []
    for number, one in enumerate(wanted, 1):
        reg = state.frame.regs[number]
        check_readable(reg, number)
        if one.takes is Takes.NUMBER:
            if reg.type is not RegType.SCALAR_VALUE:
                raise _mismatch(reg, f"R{number} is not a scalar", one)
        elif one.takes is Takes.CTX:
            if reg.type is not RegType.PTR_TO_CTX:
                text = f"arg#{number - 1} expected pointer to ctx, but got {reg.type.value}"
                raise _mismatch(reg, text, one)
            check_ctx_pointer(reg, number)
        elif one.takes is Takes.ARENA:
            if reg.type not in (ARENA, RegType.SCALAR_VALUE):
                raise _mismatch(reg, f"R{number} is not a pointer to arena or scalar.", one)
        elif one.takes is Takes.OBJECT:
            _check_object(env, name, reg, number, one)
        elif one.takes is Takes.UNTRUSTED:
            pass
        elif one.takes is Takes.DYNPTR:
            dynptr.check_lent(state, reg, number)
        else:
            if moves and (reg.type in PACKET_TYPES or reg.trust & Trust.PACKET):
                raise Refused(
                    Rule.PACKET_ACCESS,
                    f"R{number} points to the packet, which {name} may move",
                    reason="in the function the pointer is one to memory, of use to its end",
                    suggestion="let the function find the packet by itself, or copy the bytes",
                    culprit=reg,
                )
            after += _check_memory(env, state, pc, name, number, one)
    for write in after:
        write()


def _check_object(env: Environment, name: str, reg: Reg, number: int, wanted: Parameter) -> None:
    """An object that is kept alive as long as the function runs. Kernels also take what RCU
    protects, whose last reference may be gone, and what a walk through structs gave, which may be
    gone itself, and let the function do with it what only such objects are for."""
    if wanted.nullable and is_null(reg):
        mark_precise(reg)
        return
    if wanted.nullable and reg.type is RegType.PTR_TO_BTF_ID_OR_NULL:
        assert isinstance(reg, Pointer)
        reg = reg.of_type(NON_NULL[reg.type], reg.id)
    check_object(env, name, reg, number, wanted.btf_id)
    if not is_trusted(reg):
        raise Refused(
            Rule.TRUST,
            f"R{number} must be trusted",
            reason=f"{name} relies on an object that is kept alive while it runs",
            suggestion="pass one that the program holds (acquire it first), or was given",
            culprit=reg,
        )


def _check_memory(
    env: Environment, state: State, pc: int, name: str, number: int, wanted: Parameter
) -> list[Callable[[], None]]:
    reg = state.frame.regs[number]
    if is_null(reg) or reg.type in NON_NULL:
        if not wanted.nullable:
            raise Refused(
                Rule.POSSIBLY_NULL,
                f"arg#{number - 1} is expected to be non-NULL",
                reason=f"{name} relies on a pointer that is not NULL",
                suggestion=f"compare r{number} with 0 first",
                culprit=reg,
            )
        if is_null(reg):
            mark_precise(reg)
            return []
        assert isinstance(reg, Pointer)
        regs = state.frame.regs
        regs[number] = reg.of_type(NON_NULL[reg.type], reg.id)
        try:
            return memory_argument(env, state, pc, name, number, wanted.size)
        finally:
            regs[number] = reg
    writable = env.profile.packet_access in (PacketAccess.WRITE, PacketAccess.FREE)
    if reg.type in PACKET_TYPES and not writable:
        raise unsupported(f"packet memory as argument of the global function {name}")
    return memory_argument(env, state, pc, name, number, wanted.size, packet=True)


def _mismatch(reg: Reg, text: str, wanted: Parameter) -> Refused:
    return forbidden(
        Rule.HELPER_ARG,
        text,
        reason=f"the parameter of the global function is {wanted.takes.value}",
        culprit=reg,
    )
