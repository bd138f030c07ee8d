"""What a load through a pointer to a kernel's struct gives: walking the struct's BTF.

The access goes down nested structs, unions and arrays to the member that holds its bytes. Loads of
numbers may be of any part of them, loads of pointers must be of the whole pointer.
Kernel Documentation/bpf/btf.rst (layout); what is refused and how, the running kernel's answers.
"""

from __future__ import annotations

from dataclasses import dataclass

from pybpfvm.btf.types import (
    POINTER_BYTES,
    Array,
    Btf,
    BtfKind,
    BtfType,
    Int,
    Member,
    Ptr,
    Struct,
    TypeTag,
    Union,
)
from pybpfvm.errors import InputError
from pybpfvm.verifier.refusal import Refused, forbidden
from pybpfvm.verifier.states.regstate import Trust
from pybpfvm.verifier.verdict import Rule

# Structs in structs: deeper nesting than any compiler makes.
_MAX_DEPTH = 64
_TAGS = {"user": Trust.USER, "percpu": Trust.PERCPU, "rcu": Trust.RCU}


@dataclass(frozen=True, slots=True)
class Reached:
    """What lies where an access goes.

    `btf_id`: a pointer to this struct was loaded; 0: a number, unless `memory`: a pointer to
    something that is no struct. `trust` says what the member's type, and unions on the way, tell.
    `member` is the name of the member that holds the pointer.
    """

    btf_id: int = 0
    memory: bool = False
    trust: Trust = Trust.NONE
    member: str = ""


def struct_name(btf: Btf, type_id: int) -> str:
    """The name of a struct, as the kernel's messages have it."""
    return btf.name(type_id) or "(anon)"


def walk(btf: Btf, type_id: int, off: int, size: int) -> Reached:
    """What an access of `size` bytes at `off` (not negative) of a struct finds there.

    Raises Refused where no member holds all of the bytes.
    """
    union = Trust.NONE
    for _ in range(_MAX_DEPTH):
        found = btf.type(type_id)
        assert isinstance(found, Struct | Union), found
        if off + size > found.size:
            inner = _behind_the_end(btf, found, type_id, off, size)
            if inner is None:
                return Reached(trust=union)
            type_id, off = inner
            continue
        if isinstance(found, Union) and len(found.members) != 1:
            # Which of its members a union holds is not known.
            union = Trust.UNTRUSTED
        step = _member_at(btf, found, type_id, off, size, union)
        if isinstance(step, Reached):
            return step
        type_id, off = step
    raise forbidden(Rule.BTF_ACCESS, f"structs nested deeper than {_MAX_DEPTH}", reason="")


def _behind_the_end(
    btf: Btf, struct: Struct | Union, type_id: int, off: int, size: int
) -> tuple[int, int] | None:
    """(struct, offset in it) of an access to the elements of a flexible array at the struct's
    end; None if these are numbers."""
    if struct.members:
        last = struct.members[-1]
        array = btf.type(btf.resolve(last.type_id))
        start = last.bit_offset // 8
        if isinstance(array, Array) and array.count == 0 and off >= start:
            element_id = btf.resolve(array.element_id)
            element = btf.type(element_id)
            if isinstance(element, Int):
                return None
            if isinstance(element, Struct | Union) and element.size:
                return element_id, (off - start) % element.size
    name = struct_name(btf, type_id)
    raise _outside(f"access beyond struct {name} at off {off} size {size}")


def _member_at(
    btf: Btf, struct: Struct | Union, type_id: int, off: int, size: int, union: Trust
) -> Reached | tuple[int, int]:
    """What the access finds in a member, or the struct inside that it goes into."""
    name = struct_name(btf, type_id)
    for member in struct.members:
        start = member.bit_offset // 8
        if member.bitfield_bits:
            end = (member.bit_offset + member.bitfield_bits + 7) // 8
            if end <= off:
                continue
            if off <= start and end <= off + size:
                return Reached(trust=union)
            continue
        if off < start:
            break
        inner_id = btf.resolve(member.type_id)
        bytes_ = _size(btf, inner_id)
        end = start + bytes_
        if off >= end:
            continue
        inner = btf.type(inner_id)
        if isinstance(inner, Array):
            inner_id, inner, start = _element(btf, inner_id, start, off)
        if isinstance(inner, Struct | Union):
            return inner_id, off - start
        if isinstance(inner, Ptr):
            return _pointer(btf, inner, member, name, start, off, size, union)
        if off + size > end and not union:
            raise _outside(
                f"access beyond the end of member {member.name or '(anon)'} (mend:{end}) in "
                f"struct {name} with off {off} size {size}"
            )
        return Reached(trust=union)
    raise forbidden(
        Rule.BTF_ACCESS,
        f"struct {name} doesn't have field at offset {off}",
        reason="no member begins or lies there: it is padding",
        suggestion="read members by name; with CO-RE if the kernel may lay them out otherwise",
    )


def _element(btf: Btf, array_id: int, start: int, off: int) -> tuple[int, BtfType, int]:
    """(type id, type, offset) of the array's element that `off` lies in, dimensions followed."""
    inner_id = array_id
    inner = btf.type(inner_id)
    for _ in range(_MAX_DEPTH):
        if not isinstance(inner, Array):
            break
        inner_id = btf.resolve(inner.element_id)
        inner = btf.type(inner_id)
    bytes_ = _size(btf, inner_id)
    if bytes_:
        start += (off - start) // bytes_ * bytes_
    return inner_id, inner, start


def _pointer(
    btf: Btf,
    pointer: Ptr,
    member: Member,
    name: str,
    start: int,
    off: int,
    size: int,
    union: Trust,
) -> Reached:
    if size != POINTER_BYTES or off != start:
        raise _outside(
            f"cannot access ptr member {member.name or '(anon)'} with moff {start} in struct "
            f"{name} with off {off} size {size}"
        )
    trust = union
    pointee = btf.type(pointer.type_id)
    if isinstance(pointee, TypeTag):
        trust |= _TAGS.get(pointee.name, Trust.NONE)
    target = btf.resolve(pointer.type_id)
    if isinstance(btf.type(target), Struct | Union):
        return Reached(target, trust=trust, member=member.name)
    return Reached(memory=True, trust=trust, member=member.name)


def _size(btf: Btf, type_id: int) -> int:
    try:
        return btf.size(type_id)
    except InputError:
        return 0


def _outside(message: str) -> Refused:
    return forbidden(
        Rule.BTF_ACCESS,
        message,
        reason="the bytes are not those of one member",
        suggestion="read each member by itself, with its own size",
    )


def kind_text(btf: Btf, type_id: int) -> str:
    """'STRUCT task_struct': a type as the kernel's messages name it."""
    kind = btf.kind(type_id)
    return f"{BtfKind(kind).name} {btf.name(type_id)}".strip()


def begins_at(btf: Btf, type_id: int, off: int, wanted: int) -> bool:
    """Whether a struct of type `wanted` begins at `off` of the struct: it itself, or a member."""
    for _ in range(_MAX_DEPTH):
        found = btf.type(type_id)
        if not isinstance(found, Struct | Union):
            return False
        if off == 0 and type_id == wanted:
            return True
        for member in found.members:
            start = member.bit_offset // 8
            inner_id = btf.resolve(member.type_id)
            inner = btf.type(inner_id)
            if member.bitfield_bits or not start <= off < start + _size(btf, inner_id):
                continue
            if isinstance(inner, Array):
                inner_id, inner, start = _element(btf, inner_id, start, off)
            if isinstance(inner, Struct | Union):
                type_id, off = inner_id, off - start
                break
            return False
        else:
            return False
    return False
