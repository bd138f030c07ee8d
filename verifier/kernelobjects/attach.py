"""What a program with BTF arguments is attached to, and what its context therefore holds.

The context of such a program is an array of 64-bit words, one for each argument of the function,
tracepoint, iterator or struct_ops member that it is attached to (for an exit, the result after
them). Their types come from the target's BTF. Kernel Documentation/bpf/bpf_lsm.rst,
prog_lsm.rst, kfuncs.rst (`__nullable`, `__ref`); lists as the running kernel answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from pybpfvm.btf.types import (
    POINTER_BYTES,
    Btf,
    BtfKind,
    Enum,
    Enum64,
    Func,
    FuncProto,
    Int,
    Ptr,
    Struct,
    Typedef,
    TypeTag,
    Union,
    Void,
)
from pybpfvm.errors import InputError
from pybpfvm.profiles.base import Profile
from pybpfvm.program import Program
from pybpfvm.verifier.kernelobjects.btfwalk import kind_text
from pybpfvm.verifier.kernelobjects.tracepoints import (
    BUFFERS,
    MAYBE_NULL,
    NOT_ITERATORS,
    OR_NULL,
    TRUSTED_OR_NULL,
)
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.states.regstate import Trust
from pybpfvm.verifier.verdict import Rule

_MAX_ERRNO = 4095
_SLEEPABLE = ("fentry.s/", "fexit.s/", "fmod_ret.s/", "lsm.s/")
_TAGS = {"user": Trust.USER, "percpu": Trust.PERCPU}
# LSM hooks that answer yes or no; all others answer 0 or an error.
_YES_NO_HOOKS = frozenset(
    {"audit_rule_known", "inode_xattr_skipcap", "xfrm_state_pol_flow_match", "ismaclabel"}
)


@dataclass(frozen=True, slots=True)
class Word:
    """One 64-bit word of the context. `btf_id`: of the struct that it points to, 0 for a number;
    `problem`: why it can not be read at all, in the kernel's words; `unsupported`: what it is that
    we can not judge."""

    name: str = ""
    btf_id: int = 0
    trust: Trust = Trust.NONE
    nullable: bool = False
    problem: str = ""
    unsupported: str = ""


@dataclass(frozen=True, slots=True)
class Attachment:
    """`name` of the function (without prefixes), the context's words, and the least and greatest
    value that the program may return (None: any; `void`: there need be none); `struct` of the
    member, for struct_ops."""

    name: str
    words: tuple[Word, ...]
    returns: tuple[int, int] | None
    struct: str = ""
    void: bool = False


def is_btf_typed(profile: Profile) -> bool:
    """Whether programs of the profile get their arguments from a BTF prototype."""
    return profile.type_name in _ATTACH


def attachment(program: Program, profile: Profile, btf: Btf | None) -> Attachment:
    """What `program` is attached to. Refused if there is nothing of that name in the target's
    BTF, or what is attached to is not known."""
    kind, _, target = program.section.partition("/")
    kind = kind.removesuffix(".s")
    target = program.attach_to or target
    if btf is None:
        raise unsupported(f"{profile.name} programs without the target's BTF (/sys/kernel/btf)")
    if not target:
        raise unsupported(f"a {profile.name} program whose section does not say what it is for")
    try:
        found = _ATTACH[profile.type_name](btf, kind, target)
    except InputError as error:
        raise unsupported(f"attaching to {target}: {error}") from None
    if program.section.startswith(_SLEEPABLE):
        # The kernel's lists of functions and hooks that may sleep are in no BTF.
        raise unsupported(f"whether {found.name} may sleep, as a sleepable program needs")
    return found


def _tracing(btf: Btf, kind: str, target: str) -> Attachment:
    if kind == "tp_btf":
        return _tracepoint(btf, target)
    if kind == "iter":
        return _iterator(btf, target)
    proto = _function(btf, target)
    words = [word for param in proto.params for word in _words(btf, param.name, param.type_id)]
    if kind == "fexit":
        if not _is_void(btf, proto.return_id):
            words += _words(btf, "return value", proto.return_id)
        return Attachment(target, tuple(words), (0, 0))
    if kind == "fmod_ret":
        raise unsupported(f"fmod_ret of {target}: which functions take it is not in BTF")
    return Attachment(target, tuple(words), (0, 0))


def _tracepoint(btf: Btf, target: str) -> Attachment:
    found = btf.find(f"btf_trace_{target}", BtfKind.TYPEDEF)
    typedef = btf.type(found) if found is not None else None
    pointer = btf.type(typedef.type_id) if isinstance(typedef, Typedef) else None
    proto = btf.type(pointer.type_id) if isinstance(pointer, Ptr) else None
    if not isinstance(proto, FuncProto):
        raise _no_target(f"tracepoint {target}")
    # The function that calls the programs names the parameters as the tracepoint declares them.
    caller = btf.find(f"__bpf_trace_{target}", BtfKind.FUNC)
    named = proto
    if caller is not None:
        other = _prototype(btf, caller)
        if len(other.params) == len(proto.params):
            named = other
    words: list[Word] = []
    for index, (param, told) in enumerate(zip(proto.params[1:], named.params[1:], strict=True)):
        nullable = told.name.endswith("__nullable") or (target, index) in MAYBE_NULL
        words += _words(btf, told.name, param.type_id, Trust.TRUSTED, nullable=nullable)
    return Attachment(target, tuple(words), None)


def _iterator(btf: Btf, target: str) -> Attachment:
    if target in NOT_ITERATORS:
        raise _no_target(f"iterator {target}")
    proto = _function(btf, f"bpf_iter_{target}")
    words: list[Word] = []
    for index, param in enumerate(proto.params):
        place = (target, index)
        if place in BUFFERS:
            words.append(Word(param.name, unsupported="buffers of iterators"))
            continue
        nullable = place in OR_NULL or place in TRUSTED_OR_NULL
        trust = Trust.NONE if place in OR_NULL else Trust.TRUSTED
        words += _words(btf, param.name, param.type_id, trust, nullable=nullable)
    return Attachment(f"bpf_iter_{target}", tuple(words), (0, 1))


def _lsm(btf: Btf, kind: str, target: str) -> Attachment:
    proto = _function(btf, f"bpf_lsm_{target}")
    words = [
        word
        for param in proto.params
        for word in _words(btf, param.name, param.type_id, Trust.TRUSTED)
    ]
    if _is_void(btf, proto.return_id):
        return Attachment(f"bpf_lsm_{target}", tuple(words), None, void=True)
    words += _words(btf, "return value", proto.return_id)
    allowed = (0, 1) if target in _YES_NO_HOOKS else (-_MAX_ERRNO, 0)
    return Attachment(f"bpf_lsm_{target}", tuple(words), allowed)


# Members without a stub, measured on Linux 6.18.
_NOT_FOR_PROGRAMS = frozenset({("tcp_congestion_ops", "get_info")})


def _struct_ops(btf: Btf, kind: str, target: str) -> Attachment:
    struct, slash, member_name = target.replace(".", "/").partition("/")
    if not slash:
        raise unsupported("a struct_ops program that no struct of callbacks names")
    found = btf.find(struct, BtfKind.STRUCT)
    value = btf.find(f"bpf_struct_ops_{struct}", BtfKind.STRUCT)
    if found is None or value is None:
        raise _no_target(f"struct_ops {target}")
    members = btf.type(found)
    assert isinstance(members, Struct)
    member = next((one for one in members.members if one.name == member_name), None)
    pointer = btf.type(btf.resolve(member.type_id)) if member is not None else None
    proto = btf.type(btf.resolve(pointer.type_id)) if isinstance(pointer, Ptr) else None
    if not isinstance(proto, FuncProto):
        raise _no_target(f"function {member_name} of struct {struct}")
    if (struct, member_name) in _NOT_FOR_PROGRAMS:
        raise forbidden(
            Rule.ATTACH_TARGET,
            f"attach to unsupported member {member_name} of struct {struct}",
            reason="the kernel lets no program stand for this member",
            suggestion="leave the member out of the struct",
        )
    # The stub that the kernel registers says which arguments may be NULL.
    stub = btf.find(f"{struct}__{member_name}", BtfKind.FUNC)
    named = proto if stub is None else _prototype(btf, stub)
    if len(named.params) != len(proto.params):
        named = proto
    words: list[Word] = []
    for param, told in zip(proto.params, named.params, strict=True):
        if told.name.endswith("__ref"):
            raise unsupported(f"struct_ops arguments that own a reference ({told.name})")
        nullable = told.name.endswith("__nullable")
        words += _words(btf, told.name, param.type_id, Trust.TRUSTED, nullable=nullable)
    if _returns_pointer(btf, proto.return_id):
        raise unsupported(f"struct_ops functions that return a pointer ({member_name})")
    return Attachment(member_name, tuple(words), None, struct, void=_is_void(btf, proto.return_id))


_ATTACH = {"tracing": _tracing, "lsm": _lsm, "struct_ops": _struct_ops}


def _function(btf: Btf, name: str) -> FuncProto:
    found = btf.find(name, BtfKind.FUNC)
    if found is None:
        raise _no_target(f"function {name}")
    return _prototype(btf, found)


def _prototype(btf: Btf, func_id: int) -> FuncProto:
    func = btf.type(func_id)
    assert isinstance(func, Func)
    proto = btf.type(func.type_id)
    if not isinstance(proto, FuncProto):
        raise InputError("a function without a prototype", where=btf.where)
    return proto


def _no_target(what: str) -> Refused:
    return forbidden(
        Rule.ATTACH_TARGET,
        f"{what} is not found in the target's BTF",
        reason="the kernel whose BTF this is has nothing of this name to attach to",
        suggestion="check the name in the section, or give the target's BTF with --btf",
    )


def _is_void(btf: Btf, type_id: int) -> bool:
    return isinstance(btf.type(btf.resolve(type_id)), Void)


def _returns_pointer(btf: Btf, type_id: int) -> bool:
    return isinstance(btf.type(btf.resolve(type_id)), Ptr)


def _words(
    btf: Btf, name: str, type_id: int, trust: Trust = Trust.NONE, *, nullable: bool = False
) -> tuple[Word, ...]:
    """The words that an argument takes: one, or more for a struct by value."""
    resolved = btf.resolve(type_id)
    found = btf.type(resolved)
    if isinstance(found, Int | Enum | Enum64) and found.size <= POINTER_BYTES:
        return (Word(name),)
    if isinstance(found, Struct | Union):
        return (Word(name),) * max(1, (found.size + POINTER_BYTES - 1) // POINTER_BYTES)
    if not isinstance(found, Ptr):
        text = kind_text(btf, resolved)
        return (Word(name, problem=f"{name!r} has type {text}. Only pointer access is allowed"),)
    return (_pointer_word(btf, name, found, trust, nullable=nullable),)


def _pointer_word(btf: Btf, name: str, pointer: Ptr, trust: Trust, *, nullable: bool) -> Word:
    tagged = btf.type(pointer.type_id)
    if isinstance(tagged, TypeTag):
        trust |= _TAGS.get(tagged.name, Trust.NONE)
    target = btf.resolve(pointer.type_id)
    pointee = btf.type(target)
    if isinstance(pointee, Void | Int):
        return Word(name)
    if not isinstance(pointee, Struct | Union):
        return Word(name, problem=f"type {kind_text(btf, target)} is not a struct")
    return Word(name, target, trust, nullable)
