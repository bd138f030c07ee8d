"""Reading a contract (docs/contracts.md) and holding it against the object it speaks of."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import Any

from pybpfvm.btf.types import Array, Btf, BtfKind, Struct, Union
from pybpfvm.errors import InputError
from pybpfvm.program import BpfObject, MapType
from pybpfvm.verifier.usermemory.contract import (
    MAX_BLOCK_BYTES,
    MAX_CQ_ENTRIES,
    MAX_CQS,
    Block,
    Contract,
    PointerField,
    ProgramPromise,
)
from pybpfvm.verifier.verdict import LINTS, Rule

_POINTER_BYTES = 8
_MAX_POINTERS = 4096
_ACCESS = {"r": (True, False), "w": (False, True), "rw": (True, True)}
_LINTS = {rule.value: rule for rule in LINTS}
_KINDS = {"struct": BtfKind.STRUCT, "union": BtfKind.UNION, "enum": BtfKind.ENUM}
_NAMED = (BtfKind.TYPEDEF, BtfKind.INT)


def parse_contract(
    source: str | Mapping[str, Any], obj: BpfObject, *, where: str = "contract"
) -> Contract:
    """The contract in `source`, TOML text or what such text holds, for the programs of `obj`.

    Raises InputError for what is written wrong and for what contradicts the object.
    """
    if isinstance(source, str):
        try:
            source = tomllib.loads(source)
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise InputError(str(error), where=where, remedy="see docs/contracts.md") from None
    return _Reader(obj, where).contract(source)


class _Reader:
    """Reads one contract. `place` arguments are dotted keys, for messages."""

    def __init__(self, obj: BpfObject, where: str) -> None:
        self._obj = obj
        self._where = where

    def contract(self, table: Mapping[str, Any]) -> Contract:
        self._keys(table, "", ("ring", "programs", "blocks", "maps"))
        raw = self._table(table, "blocks")
        names = frozenset(raw)
        blocks = {name: self._block(name, raw, names) for name in raw}
        programs = {
            name: self._program(name, row, names)
            for name, row in self._table(table, "programs").items()
        }
        self._all_reached(blocks, programs)
        return Contract(blocks, programs, self._ring(table), self._maps(table))

    # Pieces.

    def _program(self, name: str, row: Any, blocks: frozenset[str]) -> ProgramPromise:
        place = f"programs.{name}"
        known = [program.name for program in self._obj.programs]
        if name not in known:
            raise self._error(
                place, "the object has no such program", f"programs: {', '.join(known) or 'none'}"
            )
        row = self._is_table(row, place)
        self._keys(row, place, ("user_data", "owns_cqs", "allow"))
        target = row.get("user_data")
        if target is not None:
            self._known_block(f"{place}.user_data", target, blocks)
        return ProgramPromise(
            target,
            frozenset(self._numbers(row, f"{place}.owns_cqs", "owns_cqs", 0, MAX_CQS - 1)),
            self._allowed(row, f"{place}.allow"),
        )

    def _allowed(self, row: Mapping[str, Any], place: str) -> dict[Rule, str]:
        allowed: dict[Rule, str] = {}
        for name, why in self._is_table(row.get("allow", {}), place).items():
            rule = _LINTS.get(name)
            if rule is None:
                raise self._error(f"{place}.{name}", "no such lint", "ids are in docs/lints.md")
            if not isinstance(why, str) or not why.strip():
                raise self._error(f"{place}.{name}", "no reason is given", 'write id = "why"')
            allowed[rule] = why
        return allowed

    def _block(self, name: str, raw: Mapping[str, Any], blocks: frozenset[str]) -> Block:
        place = f"blocks.{name}"
        row = self._is_table(raw[name], place)
        self._keys(row, place, ("type", "size", "count", "access", "pointers", "pinned"))
        count = self._number(row, place, "count", 1, MAX_BLOCK_BYTES) or 1
        size = self._number(row, place, "size", 1, MAX_BLOCK_BYTES)
        type_name, type_id = row.get("type"), 0
        if type_name is not None:
            type_id, element = self._type(f"{place}.type", type_name)
            if size is not None and size != element * count:
                text = f"{type_name} is {element} bytes, {count} of them are not {size}"
                raise self._error(f"{place}.size", text, "leave size out where a type is given")
        elif size is None:
            raise self._error(place, "neither type nor size", 'e.g. type = "struct job"')
        elif size % count:
            raise self._error(place, f"{size} bytes are not {count} equal elements", "")
        else:
            element = size // count
        if element * count > MAX_BLOCK_BYTES:
            raise self._error(place, f"{count} times {element} bytes are too many", "")
        access = row.get("access", "rw")
        if not isinstance(access, str) or access not in _ACCESS:
            raise self._error(f"{place}.access", f"{access!r} is no direction", 'r, w or "rw"')
        readable, writable = _ACCESS[access]
        pointers = tuple(self._pointers(row, place, type_id, element, blocks))
        pinned = row.get("pinned", False)
        if not isinstance(pinned, bool):
            raise self._error(f"{place}.pinned", f"{pinned!r} is not true or false", "")
        if pinned and not readable:
            raise self._error(f"{place}.pinned", "programs may not read it", 'access = "rw"')
        return Block(
            name, element * count, element, readable, writable, pointers, type_name or "", pinned
        )

    def _type(self, place: str, text: Any) -> tuple[int, int]:
        """Id and size of a type that is named as in C."""
        btf = self._obj.btf
        if not isinstance(text, str):
            raise self._error(place, f"{text!r} is no name of a type", 'e.g. "struct job"')
        if btf is None:
            raise self._error(place, "the object has no BTF", "give a size, or compile with -g")
        keyword, _, name = text.strip().rpartition(" ")
        kinds = (_KINDS[keyword],) if keyword in _KINDS else _NAMED
        type_id = btf.find(name, *kinds) if keyword in ("", *_KINDS) else None
        if type_id is None:
            remedy = (
                f"{self._types(btf)}; types used only inside functions are not in BTF: give the "
                "block size = N (and pointers by offset), or mention the type in a map or a global"
            )
            raise self._error(place, f"the object has no type {text!r}", remedy)
        size = btf.size(type_id)
        if size <= 0:
            raise self._error(place, f"{text} has no size", "name a complete type")
        return type_id, size

    def _types(self, btf: Btf) -> str:
        names = [btf.name(one) for one in btf.ids_of(BtfKind.STRUCT)]
        shown = ", ".join(sorted({f"struct {name}" for name in names if name})[:12])
        return f"types: {shown}" if shown else "it has no named structs"

    def _pointers(
        self,
        row: Mapping[str, Any],
        place: str,
        type_id: int,
        element: int,
        blocks: frozenset[str],
    ) -> Iterable[PointerField]:
        found = 0
        for name, target in self._is_table(row.get("pointers", {}), f"{place}.pointers").items():
            here = f"{place}.pointers.{name}"
            self._known_block(here, target, blocks)
            offsets = self._field(here, name, type_id, element)
            found += len(offsets)
            if found > _MAX_POINTERS:
                raise self._error(here, f"more than {_MAX_POINTERS} pointers in a block", "")
            for offset in offsets:
                yield PointerField(name, offset, target)

    def _field(self, place: str, path: str, type_id: int, element: int) -> tuple[int, ...]:
        """Offsets of the field `path`: of each element where arrays are on the way. A number
        is an offset itself."""
        if path.isascii() and path.isdigit():
            offset = int(path[:12])
            if offset + _POINTER_BYTES > element:
                text = f"8 bytes at {offset} are not inside an element of {element}"
                raise self._error(place, text, "offsets are in bytes, from 0")
            return (offset,)
        btf = self._obj.btf
        if not type_id or btf is None:
            raise self._error(
                place, "the block has no type, so no fields", "give it a type, or an offset"
            )
        offsets, at = self._elements(place, btf, (0,), type_id)
        for part in path.split("."):
            holder = btf.type(at)
            members = holder.members if isinstance(holder, Struct | Union) else ()
            member = next((one for one in members if one.name == part), None)
            if member is None or member.bitfield_bits:
                names = ", ".join(one.name for one in members if one.name)
                raise self._error(place, f"no field {part!r}", f"fields: {names or 'none'}")
            start = member.bit_offset // 8
            offsets, at = self._elements(
                place, btf, tuple(one + start for one in offsets), member.type_id
            )
        if btf.size(at) != _POINTER_BYTES or isinstance(btf.type(at), Struct | Union):
            size = btf.size(at)
            raise self._error(place, f"a field of {size} bytes holds no address", "8 bytes do")
        return offsets

    def _elements(
        self, place: str, btf: Btf, offsets: tuple[int, ...], type_id: int
    ) -> tuple[tuple[int, ...], int]:
        """`offsets` of a type's values: of their elements, as long as it is an array."""
        btf.size(type_id)  # refuses types without an end
        at = btf.resolve(type_id)
        while isinstance(found := btf.type(at), Array):
            if found.count * len(offsets) > _MAX_POINTERS:
                raise self._error(place, f"more than {_MAX_POINTERS} pointers in a block", "")
            width = btf.size(found.element_id)
            offsets = tuple(one + i * width for one in offsets for i in range(found.count))
            at = btf.resolve(found.element_id)
        return offsets, at

    def _ring(self, table: Mapping[str, Any]) -> tuple[int, ...]:
        row = self._table(table, "ring")
        self._keys(row, "ring", ("cq_entries", "cq0_entries"))
        first = self._number(row, "ring", "cq0_entries", 1, MAX_CQ_ENTRIES) or MAX_CQ_ENTRIES
        extra = self._numbers(row, "ring.cq_entries", "cq_entries", 1, MAX_CQ_ENTRIES)
        if len(extra) >= MAX_CQS:
            text = f"{len(extra)} extra CQs; a ring has at most {MAX_CQS - 1}"
            raise self._error("ring.cq_entries", text, "one number for each of CQ 1, 2, ...")
        return (first, *extra) if row else ()

    def _maps(self, table: Mapping[str, Any]) -> frozenset[str]:
        row = self._table(table, "maps")
        self._keys(row, "maps", ("user_writes",))
        names = row.get("user_writes", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise self._error("maps.user_writes", "not a list of names", 'e.g. ["queue"]')
        maps = {spec.name: spec for spec in self._obj.maps}
        for name in names:
            spec = maps.get(name)
            if spec is None:
                known = ", ".join(maps) or "none"
                text = f"the object has no map {name!r}"
                raise self._error("maps.user_writes", text, f"maps: {known}")
            if spec.frozen or spec.type == MapType.PROG_ARRAY:
                text = f"user space can not write {name}"
                raise self._error("maps.user_writes", text, "leave it out")
        return frozenset(names)

    def _all_reached(
        self, blocks: Mapping[str, Block], programs: Mapping[str, ProgramPromise]
    ) -> None:
        work = [one.user_data for one in programs.values() if one.user_data is not None]
        seen: set[str] = set()
        while work:
            name = work.pop()
            if name not in seen:
                seen.add(name)
                work.extend(field.target for field in blocks[name].pointers)
        for name in blocks:
            if name not in seen:
                raise self._error(
                    f"blocks.{name}",
                    "nothing points to this block",
                    f'say programs.NAME.user_data = "{name}", or name it in a block\'s pointers',
                )

    # Words.

    def _known_block(self, place: str, name: Any, blocks: frozenset[str]) -> None:
        if not isinstance(name, str) or name not in blocks:
            known = ", ".join(sorted(blocks)) or "none"
            raise self._error(place, f"no block is called {name!r}", f"blocks: {known}")

    def _table(self, table: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        return self._is_table(table.get(key, {}), key)

    def _is_table(self, value: Any, place: str) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            raise self._error(place, f"{value!r} is no table", "see docs/contracts.md")
        return value

    def _keys(self, table: Mapping[str, Any], place: str, known: tuple[str, ...]) -> None:
        for key in table:
            if key not in known:
                at = f"{place}.{key}" if place else str(key)
                raise self._error(at, "no such key", f"keys: {', '.join(known)}")

    def _number(
        self, row: Mapping[str, Any], place: str, key: str, low: int, high: int
    ) -> int | None:
        value = row.get(key)
        if value is None:
            return None
        if type(value) is not int or not low <= value <= high:
            text = f"{value!r} is no number from {low} to {high}"
            raise self._error(f"{place}.{key}", text, "sizes and counts are in bytes and elements")
        return value

    def _numbers(
        self, row: Mapping[str, Any], place: str, key: str, low: int, high: int
    ) -> tuple[int, ...]:
        values = row.get(key, [])
        if not isinstance(values, list | tuple):
            raise self._error(place, f"{values!r} is no list of numbers", "e.g. [1, 2]")
        for value in values:
            if type(value) is not int or not low <= value <= high:
                text = f"{value!r} is no number from {low} to {high}"
                raise self._error(place, text, "see docs/contracts.md")
        return tuple(values)

    def _error(self, place: str, reason: str, remedy: str) -> InputError:
        return InputError(reason, where=f"{self._where}: {place}", remedy=remedy)
