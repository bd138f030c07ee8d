"""BTF types as values, and `Btf`, the numbered table that holds them.

Kinds and layouts: kernel Documentation/bpf/btf.rst, section 2.2. Type ids are positions in the
table; id 0 is `void`. Sizes are bytes unless a name says bits; pointers are 8 bytes, as in every
BPF program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Protocol

from pybpfvm.errors import InputError

POINTER_BYTES = 8
MAX_CHAIN = 32  # typedefs, modifiers and array dimensions followed in a row, as the kernel does
MAX_NAMES_BYTES = 32 << 20  # all names together, when the index by name is built


class BtfKind(IntEnum):
    """Kinds by the numbers of the format."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


class FuncLinkage(IntEnum):
    """How a function can be reached."""

    STATIC = 0
    GLOBAL = 1
    EXTERN = 2


class VarLinkage(IntEnum):
    """How a variable can be reached."""

    STATIC = 0
    GLOBAL = 1
    EXTERN = 2


@dataclass(frozen=True, slots=True)
class Void:
    """Id 0: no type."""

    kind: ClassVar[BtfKind] = BtfKind.VOID


@dataclass(frozen=True, slots=True)
class Int:
    """An integer of `size` bytes; `bits` of them count, from `bit_offset` (old bitfields)."""

    name: str
    size: int
    bits: int
    bit_offset: int = 0
    signed: bool = False
    char: bool = False
    boolean: bool = False
    kind: ClassVar[BtfKind] = BtfKind.INT


@dataclass(frozen=True, slots=True)
class Ptr:
    """A pointer to `type_id`."""

    type_id: int
    kind: ClassVar[BtfKind] = BtfKind.PTR


@dataclass(frozen=True, slots=True)
class Array:
    """`count` elements of `element_id`, indexed by `index_id` (an integer type)."""

    element_id: int
    index_id: int
    count: int
    kind: ClassVar[BtfKind] = BtfKind.ARRAY


@dataclass(frozen=True, slots=True)
class Member:
    """A field at `bit_offset`; `bitfield_bits` is 0 unless it is a bitfield."""

    name: str
    type_id: int
    bit_offset: int
    bitfield_bits: int = 0


@dataclass(frozen=True, slots=True)
class Struct:
    """A struct of `size` bytes."""

    name: str
    size: int
    members: tuple[Member, ...] = ()
    kind: ClassVar[BtfKind] = BtfKind.STRUCT


@dataclass(frozen=True, slots=True)
class Union:
    """A union of `size` bytes."""

    name: str
    size: int
    members: tuple[Member, ...] = ()
    kind: ClassVar[BtfKind] = BtfKind.UNION


@dataclass(frozen=True, slots=True)
class EnumValue:
    """An enumerator; negative values only in signed enums."""

    name: str
    value: int


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum whose values fit 32 bits."""

    name: str
    size: int
    values: tuple[EnumValue, ...] = ()
    signed: bool = False
    kind: ClassVar[BtfKind] = BtfKind.ENUM


@dataclass(frozen=True, slots=True)
class Enum64:
    """An enum with values of 64 bits."""

    name: str
    size: int
    values: tuple[EnumValue, ...] = ()
    signed: bool = False
    kind: ClassVar[BtfKind] = BtfKind.ENUM64


@dataclass(frozen=True, slots=True)
class Fwd:
    """A struct or union that is declared only."""

    name: str
    is_union: bool = False
    kind: ClassVar[BtfKind] = BtfKind.FWD


@dataclass(frozen=True, slots=True)
class Typedef:
    """Another name for `type_id`."""

    name: str
    type_id: int
    kind: ClassVar[BtfKind] = BtfKind.TYPEDEF


@dataclass(frozen=True, slots=True)
class Volatile:
    """`volatile` before `type_id`."""

    type_id: int
    kind: ClassVar[BtfKind] = BtfKind.VOLATILE


@dataclass(frozen=True, slots=True)
class Const:
    """`const` before `type_id`."""

    type_id: int
    kind: ClassVar[BtfKind] = BtfKind.CONST


@dataclass(frozen=True, slots=True)
class Restrict:
    """`restrict` on the pointer `type_id`."""

    type_id: int
    kind: ClassVar[BtfKind] = BtfKind.RESTRICT


@dataclass(frozen=True, slots=True)
class Func:
    """A function; `type_id` is its FuncProto."""

    name: str
    type_id: int
    linkage: FuncLinkage | int = FuncLinkage.STATIC
    kind: ClassVar[BtfKind] = BtfKind.FUNC


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter; a last one without name and type means `...`."""

    name: str
    type_id: int


@dataclass(frozen=True, slots=True)
class FuncProto:
    """A function's type; `return_id` 0 is void."""

    return_id: int
    params: tuple[Param, ...] = ()
    kind: ClassVar[BtfKind] = BtfKind.FUNC_PROTO


@dataclass(frozen=True, slots=True)
class Var:
    """A global variable."""

    name: str
    type_id: int
    linkage: VarLinkage | int = VarLinkage.STATIC
    kind: ClassVar[BtfKind] = BtfKind.VAR


@dataclass(frozen=True, slots=True)
class SectionVar:
    """A variable (id of a Var) with its place in a section, in bytes."""

    type_id: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Datasec:
    """The variables of an ELF section. `size` and offsets are 0 until the object is linked."""

    name: str
    size: int
    variables: tuple[SectionVar, ...] = ()
    kind: ClassVar[BtfKind] = BtfKind.DATASEC


@dataclass(frozen=True, slots=True)
class Float:
    """A floating-point number of `size` bytes."""

    name: str
    size: int
    kind: ClassVar[BtfKind] = BtfKind.FLOAT


@dataclass(frozen=True, slots=True)
class DeclTag:
    """An attribute of `type_id`, or of its member or parameter `component` (-1: of itself)."""

    name: str
    type_id: int
    component: int = -1
    attribute: bool = False  # kind_flag: a whole GNU attribute instead of a btf_decl_tag
    kind: ClassVar[BtfKind] = BtfKind.DECL_TAG


@dataclass(frozen=True, slots=True)
class TypeTag:
    """An attribute of the type `type_id`."""

    name: str
    type_id: int
    attribute: bool = False
    kind: ClassVar[BtfKind] = BtfKind.TYPE_TAG


BtfType = (
    Void
    | Int
    | Ptr
    | Array
    | Struct
    | Union
    | Enum
    | Enum64
    | Fwd
    | Typedef
    | Volatile
    | Const
    | Restrict
    | Func
    | FuncProto
    | Var
    | Datasec
    | Float
    | DeclTag
    | TypeTag
)

# Kinds that stand for another type when its layout is asked for.
TRANSPARENT = frozenset(
    {
        BtfKind.TYPEDEF,
        BtfKind.VOLATILE,
        BtfKind.CONST,
        BtfKind.RESTRICT,
        BtfKind.TYPE_TAG,
    }
)
MODIFIERS = TRANSPARENT - {BtfKind.TYPEDEF}


class TypeSource(Protocol):
    """Where a Btf takes its types from: decoded ones, or bytes that are decoded on demand."""

    def count(self) -> int:
        """Number of types, `void` included."""

    def kind(self, type_id: int) -> BtfKind:
        """Kind of an id below count()."""

    def name(self, type_id: int) -> str:
        """Name of an id below count(), "" if it has none."""

    def decode(self, type_id: int) -> BtfType:
        """The type of an id below count()."""


@dataclass(frozen=True, slots=True)
class DecodedTypes:
    """A source that has its types already; the first one is id 1."""

    types: tuple[BtfType, ...]

    def count(self) -> int:
        """See TypeSource.count."""
        return len(self.types) + 1

    def kind(self, type_id: int) -> BtfKind:
        """See TypeSource.kind."""
        return self.decode(type_id).kind

    def name(self, type_id: int) -> str:
        """See TypeSource.name."""
        return getattr(self.decode(type_id), "name", "")

    def decode(self, type_id: int) -> BtfType:
        """See TypeSource.decode."""
        return self.types[type_id - 1] if type_id else Void()


@dataclass(frozen=True, slots=True)
class _ReplacedTypes:
    """A source with some of its types exchanged for others of the same kind and name."""

    source: TypeSource
    changes: Mapping[int, BtfType]

    def count(self) -> int:
        return self.source.count()

    def kind(self, type_id: int) -> BtfKind:
        return self.source.kind(type_id)

    def name(self, type_id: int) -> str:
        return self.source.name(type_id)

    def decode(self, type_id: int) -> BtfType:
        return self.changes.get(type_id) or self.source.decode(type_id)


class Btf:
    """A numbered table of types. Never changes; decoding and the index by name are lazy.

    `where` names it in messages ("count.bpf.o: section .BTF"). Methods that take an id raise
    InputError where it, or one that it leads to, is not in the table.
    """

    CACHE_TYPES = 4096

    def __init__(self, source: TypeSource, *, big_endian: bool = False, where: str = "BTF") -> None:
        self.big_endian = big_endian
        self.where = where
        self._source = source
        self._count = source.count()
        self._cache: dict[int, BtfType] = {}
        self._resolved: dict[int, int] = {}  # by type id, what `resolve` and `size` found
        self._sizes: dict[int, int] = {}
        self._first_of: dict[str, int] | None = None
        self._next_of: dict[int, int] = {}
        self._flavours: dict[str, list[str]] | None = None

    @classmethod
    def of(cls, types: Sequence[BtfType], *, big_endian: bool = False, where: str = "BTF") -> Btf:
        """A table of `types`, the first of which gets id 1."""
        return cls(DecodedTypes(tuple(types)), big_endian=big_endian, where=where)

    def replaced(self, changes: Mapping[int, BtfType]) -> Btf:
        """The same table with other types of equal kind and name under some ids."""
        for type_id, type_ in changes.items():
            assert self.kind(type_id) is type_.kind, (type_id, type_)
        source = _ReplacedTypes(self._source, dict(changes))
        return Btf(source, big_endian=self.big_endian, where=self.where)

    def __len__(self) -> int:
        """Number of ids: every id is in range(len(btf))."""
        return self._count

    def __iter__(self) -> Iterator[tuple[int, BtfType]]:
        """All (id, type) pairs from id 1, decoded one after the other and not kept."""
        for type_id in range(1, self._count):
            yield type_id, self._source.decode(type_id)

    def __repr__(self) -> str:
        return f"<Btf {self.where}: {self._count - 1} types>"

    def __contains__(self, type_id: int) -> bool:
        return 0 <= type_id < self._count

    def kind(self, type_id: int) -> BtfKind:
        """The kind, without decoding the type."""
        self._check(type_id)
        return self._source.kind(type_id)

    def name(self, type_id: int) -> str:
        """The name ("" if it has none), without decoding the type."""
        self._check(type_id)
        return self._source.name(type_id)

    def type(self, type_id: int) -> BtfType:
        """The type with this id."""
        found = self._cache.get(type_id)
        if found is None:
            self._check(type_id)
            found = self._source.decode(type_id)
            if len(self._cache) >= self.CACHE_TYPES:
                for cache in (self._cache, self._resolved, self._sizes):
                    cache.clear()
            self._cache[type_id] = found
        return found

    def ids_of(self, *kinds: BtfKind) -> Iterator[int]:
        """Ids of all types of these kinds, ascending."""
        kind = self._source.kind
        return (type_id for type_id in range(1, self._count) if kind(type_id) in kinds)

    def find_all(self, name: str, *kinds: BtfKind) -> tuple[int, ...]:
        """Ids of the types with exactly this name (of these kinds, if any are given), ascending."""
        first = self._index().get(name, 0) if name else 0
        found = []
        while first:
            if not kinds or self._source.kind(first) in kinds:
                found.append(first)
            first = self._next_of.get(first, 0)
        return tuple(reversed(found))

    def find(self, name: str, *kinds: BtfKind) -> int | None:
        """The lowest id with this name (of these kinds), None if there is none."""
        found = self.find_all(name, *kinds)
        return found[0] if found else None

    def find_flavours(self, essential: str, *kinds: BtfKind) -> tuple[int, ...]:
        """Ids whose name without its ___flavour is `essential`, ascending."""
        if self._flavours is None:
            flavours: dict[str, list[str]] = {}
            for name in self._index():
                if "___" in name:
                    flavours.setdefault(essential_name(name), []).append(name)
            self._flavours = flavours
        names = set(self._flavours.get(essential, ())) | {essential}
        return tuple(sorted(i for name in names for i in self.find_all(name, *kinds)))

    def resolve(self, type_id: int) -> int:
        """The id behind typedefs, qualifiers and type tags."""
        found = self._resolved.get(type_id)
        if found is None:
            found = self._resolved[type_id] = self._follow(type_id, TRANSPARENT)
        return found

    def skip_modifiers(self, type_id: int) -> int:
        """The id behind qualifiers and type tags; stops at a typedef."""
        return self._follow(type_id, MODIFIERS)

    def size(self, type_id: int) -> int:
        """Size in bytes. InputError for void, functions, declarations and endless types."""
        known = self._sizes.get(type_id)
        if known is None:
            known = self._sizes[type_id] = self._size(type_id)
        return known

    def _size(self, type_id: int) -> int:
        factor = 1
        current = type_id
        for _ in range(MAX_CHAIN):
            current = self.resolve(current)
            found = self.type(current)
            match found:
                case Array():
                    factor *= found.count
                    current = found.element_id
                case Var():
                    current = found.type_id
                case Ptr():
                    return factor * POINTER_BYTES
                case Int() | Struct() | Union() | Enum() | Enum64() | Float() | Datasec():
                    return factor * found.size
                case _:
                    raise InputError(
                        f"a type of kind {found.kind.name} has no size",
                        where=f"{self.where}, type id {current}",
                    )
        raise self._endless(type_id)

    def _follow(self, type_id: int, kinds: frozenset[BtfKind]) -> int:
        current = type_id
        for _ in range(MAX_CHAIN):
            if self.kind(current) not in kinds:
                return current
            found = self.type(current)
            assert isinstance(found, Typedef | Volatile | Const | Restrict | TypeTag)
            current = found.type_id
        raise self._endless(type_id)

    def _endless(self, type_id: int) -> InputError:
        return InputError(
            f"a chain of more than {MAX_CHAIN} typedefs, qualifiers and array dimensions",
            where=f"{self.where}, type id {type_id}",
        )

    def _check(self, type_id: int) -> None:
        if not 0 <= type_id < self._count:
            raise InputError(
                f"there is no type id {type_id}: ids end at {self._count - 1}", where=self.where
            )

    def _index(self) -> dict[str, int]:
        """Name -> highest id; `_next_of` chains from there to the lower ones of equal name.

        Two flat dicts instead of a dict of lists: half the memory at 500,000 types.
        """
        if self._first_of is None:
            first_of: dict[str, int] = {}
            left = MAX_NAMES_BYTES
            name_of: Callable[[int], str] = self._source.name
            for type_id in range(1, self._count):
                name = name_of(type_id)
                if not name:
                    continue
                left -= len(name)
                if left < 0:
                    raise InputError(
                        f"names of more than {MAX_NAMES_BYTES} bytes", where=self.where
                    )
                lower = first_of.get(name)
                if lower is not None:
                    self._next_of[type_id] = lower
                first_of[name] = type_id
            self._first_of = first_of
        return self._first_of


def essential_name(name: str) -> str:
    """`name` without its flavour: `task_struct` for `task_struct___old`.

    A flavour starts at the last run of exactly three underscores that stands between two
    other characters (libbpf's CO-RE convention).
    """
    at = name.rfind("___")
    while at > 0:
        before, after = name[at - 1], name[at + 3 : at + 4]
        if before != "_" and after not in ("", "_"):
            return name[:at]
        at = name.rfind("___", 0, at + 2)
    return name
