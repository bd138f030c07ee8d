"""Calls of kernel functions (kfuncs): who may, with which arguments, and what they leave behind.

The prototype is the target BTF's, the flags are `kfunc_flags`. A kfunc that is not listed there is
not judged. Kernel Documentation/bpf/kfuncs.rst; messages and order as the running kernel answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pybpfvm.btf.types import Array as BtfArray
from pybpfvm.btf.types import (
    Btf,
    BtfKind,
    Enum,
    Enum64,
    Func,
    FuncProto,
    Int,
    Ptr,
    Struct,
    Union,
    Void,
)
from pybpfvm.isa.insn import Insn
from pybpfvm.verifier.calls import (
    check_not_in_place,
    constant_string,
    memory_argument,
    release,
)
from pybpfvm.verifier.checks import MAX_VAR_OFF, check_ctx_pointer, check_readable
from pybpfvm.verifier.domains.word import U32
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.kernelobjects import kfuncdynptrs, rcu
from pybpfvm.verifier.kernelobjects.btfhelpers import is_struct_at, struct_id
from pybpfvm.verifier.kernelobjects.btfptr import (
    BTF_ID,
    in_rcu_section,
    is_rcu,
    pointer_to,
    type_text,
)
from pybpfvm.verifier.kernelobjects.btfwalk import begins_at, kind_text, struct_name
from pybpfvm.verifier.kernelobjects.contexts import kernel_context
from pybpfvm.verifier.kernelobjects.kfunc_flags import KFUNCS, UNKNOWN, Kf, Kfunc
from pybpfvm.verifier.refusal import Refused, forbidden, unsupported
from pybpfvm.verifier.resources import deferred, graph, irq, iterator, locking, objects
from pybpfvm.verifier.states.regstate import (
    NON_NULL,
    PACKET_TYPES,
    Pointer,
    Reg,
    RegType,
    Trust,
    clobbered,
    is_null,
    is_trusted,
    mark_precise,
    unknown,
)
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Rule

Handler = Callable[[Environment, State, Insn, int], None]

# Kfuncs with rules of their own. Whoever adds one handles the whole call.
KFUNC_SPECIAL: Mapping[str, Handler] = {
    "bpf_wq_init": deferred.wq_init,
    "bpf_wq_set_callback_impl": deferred.wq_set_callback,
    "bpf_wq_start": deferred.wq_start,
    "bpf_obj_new_impl": objects.obj_new,
    "bpf_obj_drop_impl": objects.obj_drop,
    "bpf_percpu_obj_new_impl": objects.percpu_obj_new,
    "bpf_percpu_obj_drop_impl": objects.percpu_obj_drop,
    "bpf_refcount_acquire_impl": objects.refcount_acquire,
    "bpf_list_push_front_impl": graph.list_push,
    "bpf_list_push_back_impl": graph.list_push,
    "bpf_list_pop_front": graph.list_pop,
    "bpf_list_pop_back": graph.list_pop,
    "bpf_list_front": graph.list_look,
    "bpf_list_back": graph.list_look,
    graph.RBTREE_ADD: graph.rbtree_add,
    "bpf_rbtree_remove": graph.rbtree_remove,
    "bpf_rbtree_first": graph.rbtree_look,
    "bpf_rbtree_root": graph.rbtree_look,
    "bpf_rbtree_left": graph.rbtree_next,
    "bpf_rbtree_right": graph.rbtree_next,
    "bpf_res_spin_lock": locking.res_lock,
    "bpf_res_spin_unlock": locking.res_unlock,
    "bpf_res_spin_lock_irqsave": locking.res_lock_irqsave,
    "bpf_res_spin_unlock_irqrestore": locking.res_unlock_irqrestore,
    "bpf_local_irq_save": irq.local_irq_save,
    "bpf_local_irq_restore": irq.local_irq_restore,
}
# What may be called while a lock is held.
_UNDER_LOCK = (
    frozenset({"bpf_iter_num_new", "bpf_iter_num_next", "bpf_iter_num_destroy"})
    | graph.NAMES
    | locking.NAMES
)

_DEVICE_BOUND = frozenset(
    f"bpf_xdp_metadata_rx_{what}" for what in ("hash", "timestamp", "vlan_tag")
)
_MAX_ARGS = 5
# The names of parameters that say how large the memory is that the result points to.
RDWR_BUF_SIZE = "rdwr_buf_size"
_BUF_SIZES = (RDWR_BUF_SIZE, "rdonly_buf_size")
_MAX_STRUCT_DEPTH = 4
_MARKS = (
    *("__sz", "__szk", "__k", "__ign", "__prog", "__nullable", "__opt", "__uninit", "__str"),
    *("__map", "__alloc", "__refcounted_kptr", "__irq_flag"),
)
# Arguments with these marks are not judged.
_ELSEWHERE = frozenset({"__alloc", "__refcounted_kptr", "__irq_flag"})
_SIZES = ("__sz", "__szk")


@dataclass(frozen=True, slots=True)
class _Arg:
    """A parameter: its name, the suffix that says how it is meant, its (resolved) type id."""

    name: str
    mark: str
    type_id: int


@dataclass(slots=True)
class _Call:
    """One call. `released`: the id of the reference that it gives back; `memory_bytes`: the size of
    the memory that it gives, where an argument says it, `writable` for rdwr_buf_size."""

    env: Environment
    state: State
    pc: int
    name: str
    kfunc: Kfunc
    args: tuple[_Arg, ...]
    return_id: int
    released: int = 0
    memory_bytes: int | None = None
    writable: bool = False
    dynptrs: kfuncdynptrs.Dynptrs = field(default_factory=kfuncdynptrs.Dynptrs)
    after: list[Callable[[], None]] = field(default_factory=list)

    @property
    def btf(self) -> Btf:
        found = self.env.target
        assert found is not None
        return found


def kfunc_name(env: Environment, insn: Insn) -> str:
    """The name of the kfunc that a call names, "" if it names none."""
    if env.profile.ring is not None or env.target is None or insn.off:
        return ""
    found = env.target.type(insn.imm) if 0 < insn.imm < len(env.target) else None
    return found.name if isinstance(found, Func) else ""


def kfunc_may_sleep(env: Environment, insn: Insn) -> bool:
    """Whether the kfunc that is called may sleep: those whose flags are not known may."""
    kfunc = KFUNCS.get(kfunc_name(env, insn))
    return kfunc is None or Kf.SLEEPABLE in kfunc.flags


def call_kfunc(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """Check the call at `pc` and apply it to `state`."""
    name, proto = _function(env, insn)
    if state.locks and name not in _UNDER_LOCK:
        raise forbidden(
            Rule.LOCK,
            "function calls are not allowed while holding a lock",
            reason=f"a lock is held when {name} is called",
            suggestion="unlock first",
        )
    kfunc = KFUNCS.get(name)
    if name in _DEVICE_BOUND:
        raise forbidden(
            Rule.KFUNC_NOT_ALLOWED,
            "metadata kfuncs require device-bound program",
            reason="the device's driver answers, and this program is not bound to a device",
            suggestion="load it with BPF_F_XDP_DEV_BOUND_ONLY and the number of an interface",
        )
    special = KFUNC_SPECIAL.get(name)
    types = UNKNOWN.get(name) if kfunc is None else kfunc.types
    if types is not None and env.profile.type_name not in types:
        raise forbidden(
            Rule.KFUNC_NOT_ALLOWED,
            f"calling kernel function {name} is not allowed",
            reason=f"{env.profile.name} programs do not have it",
        )
    if special is not None:
        special(env, state, insn, pc)
        return
    if kfunc is None:
        raise unsupported(f"the kfunc {name}")
    if kfunc.flags & Kf.SLEEPABLE and not env.sleepable:
        raise forbidden(
            Rule.KFUNC_NOT_ALLOWED,
            f"program must be sleepable to call sleepable kfunc {name}",
            reason="it may sleep",
            suggestion="put the program into a sleepable section (.s)",
        )
    if kfunc.flags & Kf.SLEEPABLE:
        check_not_in_place(env, name)
    btf = env.target
    assert btf is not None
    args = tuple(_parameter(btf, param.name, param.type_id) for param in proto.params)
    call = _Call(env, state, pc, name, kfunc, args, btf.resolve(proto.return_id))
    _check_arguments(call)
    if kfunc.flags & Kf.SLEEPABLE:
        rcu.check_may_sleep(state, f"kernel func {name} is sleepable within")
    if kfunc.flags & Kf.RCU_PROTECTED and not in_rcu_section(env, state):
        raise forbidden(
            Rule.REGION,
            f"kernel func {name} requires RCU critical section protection",
            reason="what it gives is alive in an RCU read section only",
            suggestion="call bpf_rcu_read_lock() before, bpf_rcu_read_unlock() once done with it",
        )
    _apply(call)


def _function(env: Environment, insn: Insn) -> tuple[str, FuncProto]:
    """Name and prototype of what a call of the kernel names."""
    if env.profile.ring is not None:
        raise forbidden(
            Rule.KFUNC_NOT_ALLOWED,
            f"calling kernel function #{insn.imm} is not allowed",
            reason=f"{env.profile.name} has helpers only",
        )
    if not env.gpl:
        raise forbidden(
            Rule.KFUNC_NOT_ALLOWED,
            "cannot call kernel function from non-GPL compatible program",
            reason=f"this program's licence is {env.program.license!r}",
        )
    if insn.off:
        raise unsupported("kfuncs of kernel modules")
    btf = env.target
    if btf is None:
        raise unsupported("kfuncs without the target's BTF (/sys/kernel/btf/vmlinux)")
    func = btf.type(insn.imm) if 0 < insn.imm < len(btf) else None
    proto = btf.type(func.type_id) if isinstance(func, Func) else None
    if not isinstance(func, Func) or not isinstance(proto, FuncProto):
        raise forbidden(
            Rule.KFUNC_NOT_ALLOWED,
            f"kernel btf_id {insn.imm} is not a function",
            reason="the call names no function of the target's BTF",
            suggestion="was the object built for, or linked against, another kernel?",
        )
    return func.name, proto


def _parameter(btf: Btf, name: str, type_id: int) -> _Arg:
    mark = next((one for one in _MARKS if name.endswith(one)), "")
    return _Arg(name, mark, btf.resolve(type_id))


def _check_arguments(call: _Call) -> None:
    regs = call.state.frame.regs
    if len(call.args) > _MAX_ARGS:
        raise unsupported(f"the kfunc {call.name} with {len(call.args)} arguments")
    sized = False
    for index, arg in enumerate(call.args):
        number = index + 1
        if sized:
            sized = False
            continue
        if arg.mark in _ELSEWHERE:
            raise unsupported(f"argument {arg.name} of the kfunc {call.name}")
        if arg.mark in ("__ign", "__prog"):
            continue
        reg = regs[number]
        found = call.btf.type(arg.type_id)
        if isinstance(found, Int | Enum | Enum64):
            check_readable(reg, number)
            if reg.type is not RegType.SCALAR_VALUE:
                raise forbidden(
                    Rule.KFUNC_ARG,
                    f"R{number} is not a scalar",
                    reason=f"{arg.name} of {call.name} is a number",
                    culprit=reg,
                )
            if arg.mark == "__k":
                _check_constant(reg, number)
            elif arg.name in _BUF_SIZES:
                _check_buf_size(call, arg, reg, number)
            continue
        if not isinstance(found, Ptr):
            raise unsupported(f"argument {arg.name} of the kfunc {call.name}")
        following = call.args[index + 1] if index + 1 < len(call.args) else None
        sized = following is not None and following.mark in _SIZES
        _check_pointer(call, number, arg, found, sized=sized)
        if following is not None and following.mark == "__szk":
            size = regs[number + 1]
            _check_constant(size, number + 1)
            call.dynptrs.buffer, call.dynptrs.size = regs[number], size.var.value & U32
    if call.kfunc.flags & Kf.RELEASE and not call.released:
        raise forbidden(
            Rule.RELEASE_UNOWNED,
            f"release kernel function {call.name} expects refcounted PTR_TO_BTF_ID",
            reason="the program does not own what it gives back",
            suggestion="release only what an acquiring call returned, once",
        )


def _check_buf_size(call: _Call, arg: _Arg, reg: Reg, number: int) -> None:
    """The size of the memory that the call gives: known, whatever path led here."""
    if reg.var.mask:
        raise forbidden(
            Rule.KFUNC_ARG,
            f"R{number} is not a const",
            reason=f"{arg.name} of {call.name} is the size of the memory that it gives, which must "
            "be known when the program is loaded",
            suggestion="use a constant, or a `const volatile` variable that is set before loading",
            culprit=reg,
        )
    mark_precise(reg)
    if reg.var.value:
        # Kernels keep 32 bits of it. Nothing is that large: there is never such memory.
        call.memory_bytes, call.writable = reg.var.value & U32, arg.name == RDWR_BUF_SIZE


def _check_constant(reg: Reg, number: int) -> None:
    if reg.var.mask:
        raise forbidden(
            Rule.KFUNC_ARG,
            f"R{number} must be a known constant",
            reason="what this call does hangs on the number",
            culprit=reg,
        )
    mark_precise(reg)


def _check_pointer(call: _Call, number: int, arg: _Arg, pointer: Ptr, *, sized: bool) -> None:
    env, state = call.env, call.state
    reg = state.frame.regs[number]
    target = call.btf.resolve(pointer.type_id)
    flags = call.kfunc.flags
    needs_trust = bool(flags & (Kf.TRUSTED_ARGS | Kf.RELEASE))
    if arg.mark == "__nullable" and is_null(reg):
        mark_precise(reg)
        return
    may_be_null = is_null(reg) or reg.type in NON_NULL
    if (needs_trust or flags & Kf.RCU) and may_be_null and arg.mark != "__nullable":
        raise Refused(
            Rule.POSSIBLY_NULL,
            f"Possibly NULL pointer passed to trusted arg{number - 1}",
            reason=f"{arg.name} of {call.name} must not be NULL",
            suggestion=f"compare r{number} with 0 first",
            culprit=reg,
        )
    pointee = call.btf.type(target)
    struct = isinstance(pointee, Struct | Union)
    if struct and struct_name(call.btf, target) == call.env.profile.ctx_name:
        _check_ctx(call, reg, number)
        return
    if call.name == _CAST_CTX:
        _check_ctx(call, reg, number)
        return
    if number == 1 and iterator.takes_iterator(call.name):
        iterator.check_argument(env, state, call.name, call.btf, target, call.pc)
        return
    if kfuncdynptrs.is_dynptr(call.btf, target):
        made, used = arg.mark == "__uninit", call.dynptrs
        kfuncdynptrs.check_argument(
            env, state, call.pc, call.name, pointer, number, used, made=made
        )
        return
    if arg.mark == "__str":
        _check_string(call, reg, number)
        return
    if arg.mark == "__map":
        _check_map(reg, number)
        return
    if reg.type in _ALWAYS_TRUSTED:
        _check_known(call, reg, number, target)
        return
    if reg.type is BTF_ID:
        _check_object(call, reg, number, target, struct=struct)
        return
    fits = _is_memory_type(call.btf, target) and not (struct and _is_object(call, target))
    if not fits and not (sized and isinstance(pointee, Void)):
        raise forbidden(
            Rule.KFUNC_ARG,
            f"arg#{number - 1} pointer type {kind_text(call.btf, target)} must point to "
            f"{'void, ' if sized else ''}scalar, or struct with scalar",
            reason=f"{arg.name} of {call.name} takes a kernel object, r{number} is none",
            culprit=reg,
        )
    _check_memory(call, reg, number, target, sized=sized, optional=arg.mark == "__opt")


_CAST_CTX = "bpf_cast_to_kern_ctx"


def _is_object(call: _Call, target: int) -> bool:
    """Whether a struct is the kernel's own, though only numbers of it are known: the ring, of which
    our 7.1 shows a few, and one without members (the ring from 7.2 on). Memory of the program's
    is never one."""
    loop = call.env.profile.loop
    ring = "" if loop is None else loop.ctx
    return not call.btf.size(target) or struct_name(call.btf, target) == ring


# Structs of the kernel's that pointers of other types than its BTF's are to.
_ALWAYS_TRUSTED: Mapping[RegType, str] = {
    RegType.PTR_TO_SOCKET: "sock",
    RegType.PTR_TO_SOCK_COMMON: "sock_common",
    RegType.PTR_TO_TCP_SOCK: "tcp_sock",
    RegType.CONST_PTR_TO_MAP: "bpf_map",
}


def _check_known(call: _Call, reg: Reg, number: int, target: int) -> None:
    """A socket or a map as the kernel object that it is."""
    btf = call.btf
    if not isinstance(btf.type(target), Struct | Union):
        raise _not_taken(call, reg, number, target)
    own = struct_id(call.env, _ALWAYS_TRUSTED[reg.type])
    if reg.off or reg.var.mask or reg.var.value or not begins_at(btf, own, 0, target):
        raise forbidden(
            Rule.KFUNC_ARG,
            f"kernel function {call.name} args#{number - 1} expected pointer to "
            f"{kind_text(btf, target)} but R{number} has a pointer to {kind_text(btf, own)}",
            reason="objects of another type are of no use to it",
            culprit=reg,
        )


def _not_taken(call: _Call, reg: Reg, number: int, target: int) -> Refused:
    return forbidden(
        Rule.KFUNC_ARG,
        f"kernel function {call.name} args#{number - 1} pointer type "
        f"{kind_text(call.btf, target)} is not supported",
        reason="a pointer to a kernel object is no plain memory",
        culprit=reg,
    )


def _check_string(call: _Call, reg: Reg, number: int) -> None:
    if reg.type is not RegType.PTR_TO_MAP_VALUE:
        raise forbidden(
            Rule.KFUNC_ARG,
            f"arg#{number - 1} doesn't point to a const string",
            reason="the string must be a constant: in .rodata",
            culprit=reg,
        )
    constant_string(call.env, reg, number)


def _check_map(reg: Reg, number: int) -> None:
    if reg.map is None:
        raise forbidden(
            Rule.KFUNC_ARG,
            f"pointer in R{number} isn't map pointer",
            reason="it takes a map, by its address",
            culprit=reg,
        )
    if reg.type is not RegType.CONST_PTR_TO_MAP:
        raise unsupported("values of a map where a kfunc takes the map")


def _check_ctx(call: _Call, reg: Reg, number: int) -> None:
    if reg.type is not RegType.PTR_TO_CTX:
        raise forbidden(
            Rule.KFUNC_ARG,
            f"arg#{number - 1} expected pointer to ctx, but got {reg.type.value}",
            reason=f"{call.name} takes the context",
            culprit=reg,
        )
    check_ctx_pointer(reg, number)


def _check_object(call: _Call, reg: Reg, number: int, target: int, *, struct: bool) -> None:
    """A pointer to a kernel object, of the right type and trust."""
    env, flags = call.env, call.kfunc.flags
    if not struct:
        raise forbidden(
            Rule.KFUNC_ARG,
            f"kernel function {call.name} args#{number - 1} pointer type "
            f"{kind_text(call.btf, target)} is not supported",
            reason="a pointer to a kernel object is no plain memory",
            culprit=reg,
        )
    if reg.trust & (Trust.ALLOC | Trust.LOCAL):
        raise unsupported(f"objects of bpf_obj_new as arguments of {call.name}")
    if flags & (Kf.TRUSTED_ARGS | Kf.RELEASE | Kf.RCU) and not is_trusted(reg):
        if not flags & Kf.RCU:
            raise _untrusted(call, reg, number, f"R{number} must be referenced or trusted")
        if not is_rcu(reg):
            raise _untrusted(call, reg, number, f"R{number} must be a rcu pointer")
    releases = bool(flags & Kf.RELEASE and reg.ref_id)
    if releases and (reg.off or reg.var.mask or reg.var.value):
        raise forbidden(
            Rule.KFUNC_ARG,
            f"R{number} must have zero offset when passed to release func or trusted arg to kfunc",
            reason="an object is released by the pointer that acquiring it gave",
            culprit=reg,
        )
    if reg.var.mask:
        raise forbidden(
            Rule.KFUNC_ARG,
            f"variable ptr_ access var_off=(0x{reg.var.value:x}; 0x{reg.var.mask:x}) disallowed",
            reason="a variable was added to the pointer",
            culprit=reg,
        )
    if reg.trust & (Trust.UNTRUSTED | Trust.USER | Trust.PERCPU) and not is_rcu(reg):
        raise _untrusted(
            call,
            reg,
            number,
            f"arg#{number - 1} is {type_text(env, reg)} expected ptr_ or socket",
        )
    names = struct_name(call.btf, target), struct_name(env.btf_of(reg), reg.btf_id)
    strict = (reg.ref_id and flags & Kf.RELEASE) or _are_stages(*names)
    fits = reg.btf_id == target if strict else is_struct_at(env, reg, target)
    if not fits:
        fits = names in _PROJECTIONS and not reg.off
    if not fits:
        btf = env.btf_of(reg)
        raise forbidden(
            Rule.KFUNC_ARG,
            f"kernel function {call.name} args#{number - 1} expected pointer to "
            f"{kind_text(call.btf, target)} but R{number} has a pointer to "
            f"{kind_text(btf, reg.btf_id)}",
            reason="objects of another type are of no use to it",
            culprit=reg,
        )
    if flags & Kf.RELEASE and reg.ref_id:
        assert any(held == reg.ref_id for held, _ in call.state.refs), "a copy outlived its object"
        call.released = reg.ref_id


# What programs call an object of the kernel's, and what it is.
_PROJECTIONS = frozenset({("__sk_buff", "sk_buff"), ("xdp_md", "xdp_buff")})
_STAGE = "___init"


def _are_stages(one: str, other: str) -> bool:
    """Whether one struct is the other while it is not set up yet: neither stands for the other,
    though one begins with it."""
    return one == other + _STAGE or other == one + _STAGE


def _untrusted(call: _Call, reg: Reg, number: int, message: str) -> Refused:
    return forbidden(
        Rule.TRUST,
        message,
        reason=f"{call.name} needs an object that is known to be alive; "
        f"r{number} is {type_text(call.env, reg)}",
        suggestion="acquire it first, or read it inside bpf_rcu_read_lock()",
        culprit=reg,
    )


def _check_memory(
    call: _Call, reg: Reg, number: int, target: int, *, sized: bool, optional: bool
) -> None:
    """Memory that the kfunc reads and writes: of its type's size, or of that in the next one."""
    env, state = call.env, call.state
    if reg.type in PACKET_TYPES or reg.type in NON_NULL:
        raise unsupported(f"{reg.type.value} as memory argument of the kfunc {call.name}")
    if not sized:
        call.after += memory_argument(env, state, call.pc, call.name, number, call.btf.size(target))
        return
    size = state.frame.regs[number + 1]
    if optional and is_null(reg):
        mark_precise(reg)
        return
    check_readable(size, number + 1)
    if size.type is not RegType.SCALAR_VALUE:
        raise forbidden(
            Rule.KFUNC_ARG,
            f"R{number + 1} is not a scalar",
            reason="it is the size of the memory before it",
            culprit=size,
        )
    mark_precise(size)
    if size.var.smin < 0 or size.var.umax >= MAX_VAR_OFF:
        text = "min value is negative, either use unsigned or 'var &= const'"
        if size.var.smin >= 0:
            text = "unbounded memory access, use 'var &= const' or 'if (var < const)'"
        raise Refused(
            Rule.KFUNC_ARG,
            f"R{number + 1} {text}",
            reason="the size must have bounds that the memory fits",
            suggestion="compare the size with the buffer's before the call, or mask it",
            culprit=size,
        )
    if is_null(reg) and not size.var.umax:
        mark_precise(reg)
        return
    call.after += memory_argument(
        env, state, call.pc, call.name, number, size.var.umax, exact=not size.var.mask
    )


def _is_memory_type(btf: Btf, type_id: int, depth: int = 0) -> bool:
    """A number, or a struct of nothing but numbers: what memory of the program may hold."""
    found = btf.type(type_id)
    if isinstance(found, Int | Enum | Enum64):
        return True
    if not isinstance(found, Struct | Union) or depth >= _MAX_STRUCT_DEPTH:
        return False
    for member in found.members:
        inner = btf.resolve(member.type_id)
        array = btf.type(inner)
        if isinstance(array, BtfArray):
            inner = btf.resolve(array.element_id)
            if isinstance(btf.type(inner), Struct | Union):
                return False
        if not _is_memory_type(btf, inner, depth + 1):
            return False
    return True


def _apply(call: _Call) -> None:
    state, pc = call.state, call.pc
    for write in call.after:
        write()
    if call.released:
        release(state, call.released, pc)
    kfuncdynptrs.finish(state, call.name, call.dynptrs, pc)
    region = _REGIONS.get(call.name)
    if region is not None:
        region(state)
    result = _result(call, state.frame.regs[2])
    state.frame.regs[0:6] = [result, *[clobbered(pc)] * 5]
    state.certain = state.certain and region is not None


_REGIONS: Mapping[str, Callable[[State], None]] = {
    "bpf_rcu_read_lock": rcu.read_lock,
    "bpf_rcu_read_unlock": rcu.read_unlock,
    "bpf_preempt_disable": rcu.preempt_disable,
    "bpf_preempt_enable": rcu.preempt_enable,
}


def _result(call: _Call, second: Reg) -> Reg:
    env, pc, flags = call.env, call.pc, call.kfunc.flags
    if call.name == "bpf_rdonly_cast":
        return _cast(call, second)
    if call.name == _CAST_CTX:
        return Pointer(BTF_ID, pc, btf_id=kernel_context(env), trust=Trust.TRUSTED)
    if call.name in kfuncdynptrs.SLICES:
        kfuncdynptrs.check_slice(env, call.name)
        return kfuncdynptrs.slice_given(env, call.name, call.dynptrs, pc)
    found = call.btf.type(call.return_id)
    if isinstance(found, Void):
        return clobbered(pc)
    if isinstance(found, Int | Enum | Enum64):
        return unknown(pc)
    if not isinstance(found, Ptr):
        raise unsupported(f"the result of the kfunc {call.name}")
    if iterator.takes_iterator(call.name):
        return iterator.element(env, call.state, call.btf, found, pc)
    target = call.btf.resolve(found.type_id)
    if isinstance(call.btf.type(target), Void):
        return unknown(pc)
    if not isinstance(call.btf.type(target), Struct | Union):
        return _memory(call, target)
    ref_id = 0
    if flags & Kf.ACQUIRE:
        ref_id = env.new_id()
        call.state.refs = (*call.state.refs, (ref_id, pc))
    trust = Trust.UNTRUSTED if flags & Kf.UNTRUSTED_RESULT else Trust.NONE
    return pointer_to(env, pc, target, trust, nullable=bool(flags & Kf.RET_NULL), ref_id=ref_id)


def _memory(call: _Call, target: int) -> Reg:
    """Memory that is no kernel object: of the size that an argument says, else read-only and of the
    size of what the result points to."""
    trust, size = Trust.RDONLY, call.memory_bytes
    if size is None:
        size = call.btf.size(target)
    elif call.writable:
        trust = Trust.NONE
    if not call.kfunc.flags & Kf.RET_NULL:
        return Pointer(RegType.PTR_TO_MEM, call.pc, mem_size=size, trust=trust)
    new = call.env.new_id()
    return Pointer(RegType.PTR_TO_MEM_OR_NULL, call.pc, id=new, mem_size=size, trust=trust)


def _cast(call: _Call, wanted: Reg) -> Reg:
    """The pointer as one to the type whose id is the second argument; loads are probed."""
    btf, type_id = call.btf, wanted.var.value
    if type_id == 0:
        return Pointer(RegType.PTR_TO_MEM, call.pc, trust=Trust.RDONLY | Trust.UNTRUSTED)
    if type_id not in btf:
        raise forbidden(
            Rule.KFUNC_ARG,
            f"kernel function {call.name} for type {type_id} fails",
            reason="the target's BTF has no such type",
        )
    resolved = btf.resolve(type_id)
    if btf.kind(resolved) is not BtfKind.STRUCT:
        raise unsupported(f"{call.name} to {kind_text(btf, resolved)}")
    return Pointer(BTF_ID, call.pc, btf_id=resolved, trust=Trust.UNTRUSTED)
