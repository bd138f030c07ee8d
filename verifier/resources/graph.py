"""Collections of the program's own objects: linked lists and red-black trees.

A root is a field of a map value or of an object; the lock beside it guards it, and must be held.
An object is linked by its node, a field of its own, and belongs to the collection once it is in:
the program's pointers to it own nothing then (`Trust.NON_OWNING`), and are forgotten with the lock.
Kernel Documentation/bpf/graph_ds_impl.rst; order and messages as the running kernel answers.
"""

from __future__ import annotations

from pybpfvm.btf.kernelfields import LOCKS, NODES, Field, FieldKind
from pybpfvm.isa.insn import Insn
from pybpfvm.verifier.checks import check_readable
from pybpfvm.verifier.environment import Environment
from pybpfvm.verifier.jumps import places
from pybpfvm.verifier.kernelobjects.btfptr import BTF_ID, BTF_ID_OR_NULL
from pybpfvm.verifier.kernelobjects.btfwalk import struct_name
from pybpfvm.verifier.refusal import forbidden, possibly_null, unsupported
from pybpfvm.verifier.resources.lock import in_less
from pybpfvm.verifier.resources.objects import check_constant_offset, is_scalar
from pybpfvm.verifier.states.regstate import (
    Pointer,
    Reg,
    RegType,
    Trust,
    clobbered,
    unknown,
)
from pybpfvm.verifier.states.state import State
from pybpfvm.verifier.verdict import Rule

_LIST, _TREE = FieldKind.LIST_HEAD, FieldKind.RB_ROOT
RBTREE_ADD = "bpf_rbtree_add_impl"
# What may be called while the lock is held.
NAMES = frozenset(
    {
        "bpf_list_push_front_impl",
        "bpf_list_push_back_impl",
        "bpf_list_pop_front",
        "bpf_list_pop_back",
        "bpf_list_front",
        "bpf_list_back",
        RBTREE_ADD,
        "bpf_rbtree_remove",
        "bpf_rbtree_first",
        "bpf_rbtree_root",
        "bpf_rbtree_left",
        "bpf_rbtree_right",
        "bpf_refcount_acquire_impl",
    }
)


def list_push(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_list_push_front_impl(head, node, ..., off), and _back."""
    _, node = _into(env, state, _LIST)
    is_scalar(state.frame.regs[4], 4)
    _give_up(env, state, node)
    state.frame.regs[0:6] = [unknown(pc), *[clobbered(pc)] * 5]


def list_pop(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_list_pop_front(head), and _back: the object is the program's again."""
    _take(env, state, _root(env, state, _LIST), pc)


def list_look(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_list_front(head), and _back: the object stays where it is."""
    _look(env, state, _root(env, state, _LIST), pc)


def rbtree_add(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_rbtree_add_impl(root, node, less, ..., off); the caller explores less."""
    _, node = _into(env, state, _TREE)
    less = state.frame.regs[3]
    check_readable(less, 3)
    if less.type is not RegType.PTR_TO_FUNC:
        raise forbidden(
            Rule.OBJECT,
            "arg2 expected pointer to func",
            reason="r3 is what compares two objects",
            culprit=less,
        )
    is_scalar(state.frame.regs[5], 5)
    _give_up(env, state, node)
    state.frame.regs[0:6] = [unknown(pc), *[clobbered(pc)] * 5]


def less_call(env: Environment, regs: list[Reg], pc: int) -> tuple[int, tuple[Reg, ...]]:
    """Where less starts, and its arguments, from the registers of the call of rbtree_add."""
    field = _field_at(env, regs[1], _TREE)
    assert field is not None, "the call checked it"
    return regs[3].subprog, (_member(env, field, pc), _member(env, field, pc))


def rbtree_remove(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_rbtree_remove(root, node): NULL if it is not in this tree."""
    field = _root(env, state, _TREE)
    _linked_node(env, state, field)
    _take(env, state, field, pc)


def rbtree_look(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_rbtree_first(root), and _root."""
    _look(env, state, _root(env, state, _TREE), pc)


def rbtree_next(env: Environment, state: State, insn: Insn, pc: int) -> None:
    """bpf_rbtree_left(root, node), and _right."""
    field = _root(env, state, _TREE)
    _linked_node(env, state, field)
    _look(env, state, field, pc)


def _field_at(env: Environment, reg: Reg, kind: FieldKind) -> Field | None:
    at = reg.off + reg.var.value
    found = (one for one in env.fields_behind(reg) if one.kind is kind and one.offset == at)
    return next(found, None)


def _root(env: Environment, state: State, kind: FieldKind) -> Field:
    """r1 is the root of a collection whose lock is held."""
    if in_less(state):
        raise unsupported("collections that are used while a tree compares two objects")
    reg = state.frame.regs[1]
    check_readable(reg, 1)
    if reg.type in (RegType.PTR_TO_MAP_VALUE_OR_NULL, BTF_ID_OR_NULL):
        raise possibly_null("arg#0 expected pointer to map value or allocated object", 1, reg)
    object_ = reg.type is BTF_ID and reg.trust == Trust.ALLOC and reg.ref_id
    if reg.type is not RegType.PTR_TO_MAP_VALUE and not object_:
        text = "arg#0 expected pointer to map value or allocated object"
        raise forbidden(Rule.OBJECT, text, reason=f"r1 is no {kind.value}", culprit=reg)
    check_constant_offset(reg, 1, kind.value)
    field = _field_at(env, reg, kind)
    if field is None:
        raise forbidden(
            Rule.OBJECT,
            f"{kind.value} not found at offset={reg.off + reg.var.value}",
            reason=f"no {kind.value} begins there",
            culprit=reg,
        )
    _check_locked(env, state, reg, kind)
    return field


def _check_locked(env: Environment, state: State, reg: Reg, kind: FieldKind) -> None:
    for held in state.locks:
        if held.map is reg.map and held.map_index == reg.map_index and held.id == reg.id:
            return
    place = next((one.offset for one in env.fields_behind(reg) if one.kind in LOCKS), None)
    raise forbidden(
        Rule.LOCK,
        f"bpf_spin_lock at off={place} must be held for {kind.value}",
        reason="other programs change the collection at the same time"
        + (", and the lock that is held is not the one beside it" if state.locks else ""),
        suggestion="take the lock that lies beside the root, in the same map value or object",
        culprit=reg,
    )


def _into(env: Environment, state: State, kind: FieldKind) -> tuple[Field, Reg]:
    """r1 is the root of a collection, r2 the node of an object that may be put into it."""
    field = _root(env, state, kind)
    node = state.frame.regs[2]
    check_readable(node, 2)
    if node.type is BTF_ID_OR_NULL:
        raise possibly_null("arg#1 expected pointer to allocated object", 2, node)
    if node.type is not BTF_ID or node.trust != Trust.ALLOC or not node.ref_id:
        raise forbidden(
            Rule.OBJECT,
            "arg#1 expected pointer to allocated object",
            reason="r2 is no object that the program owns",
            suggestion="an object is put into a collection once; bpf_refcount_acquire() first "
            "for another",
            culprit=node,
        )
    _check_node(env, field, node)
    return field, node


def _check_node(env: Environment, field: Field, reg: Reg) -> None:
    """The node of an object is the one by which the collection links such objects."""
    kind = NODES[field.kind]
    check_constant_offset(reg, 2, kind.value)
    at = reg.off + reg.var.value
    if _field_at(env, reg, kind) is None:
        raise forbidden(
            Rule.OBJECT,
            f"{kind.value} not found at offset={at}",
            reason=f"no {kind.value} begins there",
            culprit=reg,
        )
    btf = env.btf_of(reg)
    wanted, name = struct_name(btf, field.btf_id), struct_name(btf, reg.btf_id)
    if reg.btf_id != field.btf_id:
        raise forbidden(
            Rule.OBJECT,
            f"operation on {field.kind.value} expects arg#1 {kind.value} at "
            f"offset={field.node} in struct {wanted}, but arg is at offset={at} in struct {name}",
            reason=f"the collection holds structs {wanted}",
            culprit=reg,
        )
    if at != field.node:
        raise forbidden(
            Rule.OBJECT,
            f"arg#1 offset={at}, but expected {kind.value} at offset={field.node} "
            f"in struct {wanted}",
            reason="the collection links its objects by another node",
            culprit=reg,
        )


def _linked_node(env: Environment, state: State, field: Field) -> None:
    """r2 is the node of an object that may be in the tree."""
    node = state.frame.regs[2]
    check_readable(node, 2)
    if node.type is BTF_ID_OR_NULL:
        raise possibly_null("can only take non-owning or refcounted bpf_rb_node pointer", 2, node)
    owned = node.trust & Trust.NON_OWNING or node.ref_id
    gone = node.trust & (Trust.PERCPU | Trust.UNTRUSTED)
    if node.type is not BTF_ID or not node.trust & Trust.ALLOC or gone or not owned:
        raise forbidden(
            Rule.OBJECT,
            "can only take non-owning or refcounted bpf_rb_node pointer",
            reason="r2 is no object that may be in the tree",
            culprit=node,
        )
    _check_node(env, field, node)


def _counted(env: Environment, field: Field) -> bool:
    """Whether what the collection holds has a reference counter: it is freed by RCU then."""
    return any(one.kind is FieldKind.REFCOUNT for one in env.object_fields(field.btf_id))


def _member(env: Environment, field: Field, pc: int, *, id: int = 0) -> Pointer:
    """A pointer to the node of an object that the collection owns; NULL if it has an `id`."""
    trust = Trust.ALLOC | Trust.NON_OWNING
    if _counted(env, field):
        trust |= Trust.RCU
    kind = BTF_ID_OR_NULL if id else BTF_ID
    return Pointer(kind, pc, off=field.node, id=id, btf_id=field.btf_id, trust=trust)


def _look(env: Environment, state: State, field: Field, pc: int) -> None:
    result = _member(env, field, pc, id=env.new_id())
    state.frame.regs[0:6] = [result, *[clobbered(pc)] * 5]
    state.certain = False


def _take(env: Environment, state: State, field: Field, pc: int) -> None:
    new = env.new_id()
    state.refs = (*state.refs, (new, pc))
    result = Pointer(
        BTF_ID_OR_NULL,
        pc,
        off=field.node,
        id=new,
        ref_id=new,
        btf_id=field.btf_id,
        trust=Trust.ALLOC,
    )
    state.frame.regs[0:6] = [result, *[clobbered(pc)] * 5]
    state.certain = False


def _give_up(env: Environment, state: State, node: Reg) -> None:
    """The collection owns the object now: what the program has are mere pointers to it."""
    counted = any(one.kind is FieldKind.REFCOUNT for one in env.object_fields(node.btf_id))
    trust = Trust.ALLOC | Trust.NON_OWNING | (Trust.RCU if counted else Trust.NONE)
    for frame in state.frames:
        for put, reg in places(frame):
            if reg.ref_id == node.ref_id:
                assert isinstance(reg, Pointer)
                mere = reg.trusted_as(trust)
                mere.ref_id = 0
                put(mere)
    state.refs = tuple(ref for ref in state.refs if ref[0] != node.ref_id)
    state.certain = False
