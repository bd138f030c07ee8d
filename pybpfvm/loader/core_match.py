"""CO-RE: does a type of the object agree with one of the target?

Three questions of growing strictness, as libbpf's documentation of `bpf_core_field_exists`,
`bpf_core_type_exists` and `bpf_core_type_matches` describes them: can a field stand for a field,
can a type stand for a type, has a type everything that the local one has.
"""

from __future__ import annotations

from pybpfvm.btf.types import (
    MAX_CHAIN,
    Array,
    Btf,
    BtfKind,
    BtfType,
    Enum,
    Enum64,
    Float,
    FuncProto,
    Fwd,
    Int,
    Ptr,
    Struct,
    Union,
    essential_name,
)
from pybpfvm.errors import InputError

# Pairs of types compared for one relocation: hostile BTF can make the tree of them endless.
MAX_COMPARISONS = 1 << 16


class TypeMatcher:
    """Compares types of `local` with types of `target`. Remembers its answers."""

    def __init__(self, local: Btf, target: Btf) -> None:
        self.local = local
        self.target = target
        self._compatible: dict[tuple[int, int], bool] = {}
        self._matching: dict[tuple[int, int, bool], bool] = {}

    def fields_compatible(self, local_id: int, target_id: int) -> bool:
        """Whether a field of one type can be read as one of the other: same sort of thing."""
        for _ in range(MAX_CHAIN):
            local = self.local.type(self.local.resolve(local_id))
            target = self.target.type(self.target.resolve(target_id))
            if isinstance(local, Struct | Union) and isinstance(target, Struct | Union):
                return True
            if isinstance(local, Enum | Enum64) and isinstance(target, Enum | Enum64):
                return _names_agree(local.name, target.name, empty_agrees=True)
            if local.kind is not target.kind:
                return False
            match local, target:
                case Int(), Int():
                    return local.bit_offset == 0 and target.bit_offset == 0
                case Fwd(), Fwd():
                    return _names_agree(local.name, target.name, empty_agrees=True)
                case Array(), Array():
                    local_id, target_id = local.element_id, target.element_id
                case (Ptr(), _) | (Float(), _):
                    return True
                case _:
                    return False
        return False

    def types_compatible(self, local_id: int, target_id: int) -> bool:
        """Whether the types are of one kind, behind pointers and in signatures too."""
        return self._compatible_at(local_id, target_id, 0)

    def _compatible_at(self, local_id: int, target_id: int, depth: int) -> bool:
        local_id, target_id = self.local.resolve(local_id), self.target.resolve(target_id)
        known = self._compatible.get((local_id, target_id))
        if known is not None:
            return known
        self._count(len(self._compatible), depth, local_id)
        local, target = self.local.type(local_id), self.target.type(target_id)
        # Assumed while it is examined: a type that leads back to itself agrees with its like.
        self._compatible[local_id, target_id] = True
        answer = self._examine_compatible(local, target, depth + 1)
        self._compatible[local_id, target_id] = answer
        return answer

    def _examine_compatible(self, local: BtfType, target: BtfType, depth: int) -> bool:
        if isinstance(local, Enum | Enum64) and isinstance(target, Enum | Enum64):
            return True
        if local.kind is not target.kind:
            return False
        match local, target:
            case Int(), Int():
                return local.bit_offset == 0 and target.bit_offset == 0
            case Ptr(), Ptr():
                return self._compatible_at(local.type_id, target.type_id, depth)
            case Array(), Array():
                return self._compatible_at(local.element_id, target.element_id, depth)
            case FuncProto(), FuncProto():
                pairs = [(local.return_id, target.return_id)]
                pairs += [(a.type_id, b.type_id) for a, b in zip(local.params, target.params)]
                return len(local.params) == len(target.params) and all(
                    self._compatible_at(a, b, depth) for a, b in pairs
                )
        return local.kind in (BtfKind.VOID, BtfKind.STRUCT, BtfKind.UNION, BtfKind.FWD)

    def types_match(self, local_id: int, target_id: int) -> bool:
        """Whether the target has every member and enumerator of the local type, and likewise
        for what they contain; behind a pointer only kind and name count."""
        return self._match_at(local_id, target_id, False, 0)

    def _match_at(self, local_id: int, target_id: int, behind: bool, depth: int) -> bool:
        local_id, target_id = self.local.resolve(local_id), self.target.resolve(target_id)
        key = (local_id, target_id, behind)
        known = self._matching.get(key)
        if known is not None:
            return known
        self._count(len(self._matching), depth, local_id)
        local, target = self.local.type(local_id), self.target.type(target_id)
        self._matching[key] = True
        answer = _names_agree(
            getattr(local, "name", ""), getattr(target, "name", "")
        ) and self._examine_match(local, target, behind, depth + 1)
        self._matching[key] = answer
        return answer

    def _examine_match(self, local: BtfType, target: BtfType, behind: bool, depth: int) -> bool:
        if behind and _forward_agrees(local, target):
            return True
        if isinstance(local, Enum | Enum64) and isinstance(target, Enum | Enum64):
            names = {essential_name(value.name) for value in target.values}
            return all(essential_name(value.name) in names for value in local.values)
        if local.kind is not target.kind:
            return False
        match local, target:
            case ((Struct() | Union()), (Struct() | Union())):
                return behind or self._members_match(local, target, depth)
            case Int(), Int():
                return local.size == target.size and local.signed == target.signed
            case Float(), Float():
                return local.size == target.size
            case Ptr(), Ptr():
                return self._match_at(local.type_id, target.type_id, True, depth)
            case Array(), Array():
                return local.count == target.count and self._match_at(
                    local.element_id, target.element_id, behind, depth
                )
            case FuncProto(), FuncProto():
                pairs = [(local.return_id, target.return_id)]
                pairs += [(a.type_id, b.type_id) for a, b in zip(local.params, target.params)]
                return len(local.params) == len(target.params) and all(
                    self._match_at(a, b, behind, depth) for a, b in pairs
                )
            case Fwd(), Fwd():
                return local.is_union == target.is_union
        return local.kind is BtfKind.VOID

    def _members_match(self, local: Struct | Union, target: Struct | Union, depth: int) -> bool:
        by_name: dict[str, list[int]] = {}
        for member in target.members:
            by_name.setdefault(essential_name(member.name), []).append(member.type_id)
        return all(
            any(
                self._match_at(member.type_id, candidate, False, depth)
                for candidate in by_name.get(essential_name(member.name), ())
            )
            for member in local.members
        )

    def _count(self, compared: int, depth: int, local_id: int) -> None:
        if compared >= MAX_COMPARISONS or depth > MAX_CHAIN:
            raise InputError(
                "types nest too deeply to be compared",
                where=f"{self.local.where}, type id {local_id}",
            )


def _names_agree(local: str, target: str, *, empty_agrees: bool = False) -> bool:
    if empty_agrees and not (local and target):
        return True
    return essential_name(local) == essential_name(target)


def _forward_agrees(local: BtfType, target: BtfType) -> bool:
    """A declaration on one side stands for the struct or union on the other."""
    match local, target:
        case Fwd(), (Struct() | Union()):
            return local.is_union == isinstance(target, Union)
        case ((Struct() | Union()), Fwd()):
            return target.is_union == isinstance(local, Union)
    return False
