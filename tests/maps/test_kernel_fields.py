"""Fields of values that are the kernel's, in updates and lookups: ours and the running kernel's."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping

import pytest

from pybpfvm import bpfsys
from pybpfvm.bits import align_up
from pybpfvm.btf.kernelfields import FieldKind, copied_around
from pybpfvm.btf.types import (
    Btf,
    BtfType,
    Datasec,
    DeclTag,
    Int,
    Member,
    Ptr,
    SectionVar,
    Struct,
    TypeTag,
    Var,
)
from pybpfvm.btf.write import write_btf
from pybpfvm.image import Image
from pybpfvm.maps import make_map
from pybpfvm.maps.base import MapError
from pybpfvm.maps.hash import HashMap
from pybpfvm.maps.live import LiveMap
from pybpfvm.memory import AddressSpace
from pybpfvm.program import BPF_F_NO_PREALLOC, BpfObject, MapSpec, MapType
from pybpfvm.verifier.refusal import Refused
from pybpfvm.verifier.resources.fields import check_map_fields, fields_of

_INT, _U64, _LOCK = 1, 2, 3
_NODES: Mapping[FieldKind, tuple[FieldKind, int]] = {
    FieldKind.LIST_HEAD: (FieldKind.LIST_NODE, 24),
    FieldKind.RB_ROOT: (FieldKind.RB_NODE, 32),
}
_BYTES: Mapping[FieldKind, int] = {
    FieldKind.SPIN_LOCK: 4,
    FieldKind.RES_SPIN_LOCK: 4,
    FieldKind.TIMER: 16,
    FieldKind.WORKQUEUE: 16,
    FieldKind.TASK_WORK: 8,
    FieldKind.LIST_HEAD: 16,
    FieldKind.LIST_NODE: 24,
    FieldKind.RB_ROOT: 16,
    FieldKind.RB_NODE: 32,
    FieldKind.REFCOUNT: 4,
    FieldKind.KPTR_UNREF: 8,
    FieldKind.KPTR_REF: 8,
    FieldKind.KPTR_PERCPU: 8,
}
_AT = 8  # where the field is
_PER_CPU = (MapType.PERCPU_ARRAY, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH)
_TYPES = {
    "array": (MapType.ARRAY, 0),
    "hash": (MapType.HASH, 0),
    "hash, not allocated before": (MapType.HASH, BPF_F_NO_PREALLOC),
    "lru": (MapType.LRU_HASH, 0),
    "array per cpu": (MapType.PERCPU_ARRAY, 0),
    "hash per cpu": (MapType.PERCPU_HASH, 0),
    "lru per cpu": (MapType.LRU_PERCPU_HASH, 0),
}
_CPUS = bpfsys.possible_cpus() if bpfsys.available() is None else 2


def value_type(kind: FieldKind) -> tuple[Btf, int, int]:
    """A struct of a u64, the field, padding, a u64 and, beside a collection, its lock: types, the
    struct's id and its size."""
    types: list[BtfType] = [
        Int("int", 4, 32, signed=True),
        Int("u64", 8, 64),
        Struct("bpf_spin_lock", 4, (Member("val", _INT, 0),)),
    ]

    def add(made: BtfType) -> int:
        types.append(made)
        return len(types)

    def opaque(name: str, size: int) -> int:
        words = (Member(f"w{n}", _INT, 32 * n) for n in range(size // 4))
        return add(Struct(name, size, tuple(words)))

    size = _BYTES[kind]
    if kind is FieldKind.SPIN_LOCK:
        field = _LOCK
    elif kind.value.startswith("bpf_"):
        field = opaque(kind.value, size)
    else:
        field = add(Ptr(add(TypeTag(kind.value, opaque("task_struct", 0)))))
    end = _AT + align_up(size, 8)
    members = [Member("a", _U64, 0), Member("f", field, 8 * _AT), Member("z", _U64, 8 * end)]
    end += 8
    if kind in _NODES:
        node, node_bytes = _NODES[kind]
        link = Member("node", opaque(node.value, node_bytes), 0)
        add(Struct("held", node_bytes + 8, (link, Member("v", _U64, 8 * node_bytes))))
        members.append(Member("lock", _LOCK, 8 * end))
        end += 8
    struct = add(Struct("value", end, tuple(members)))
    if kind in _NODES:
        add(DeclTag("contains:held:node", struct, 1))
    return Btf.of(types), struct, end


class Twins:
    """The same map here and in the running kernel."""

    def __init__(self, kind: FieldKind, type_: MapType, flags: int, memory: AddressSpace) -> None:
        btf, struct, size = value_type(kind)
        self.per_cpu = type_ in _PER_CPU
        spec = MapSpec(
            "m", type_, 4, size, 2, flags, btf_key_type_id=_INT, btf_value_type_id=struct
        )
        with bpfsys.btf_load(write_btf(btf), log_level=1) as types:
            assert types.fd is not None, types.log
            self.kernels = bpfsys.map_create(
                type_,
                4,
                size,
                2,
                flags=flags,
                btf_fd=types.fd.fileno(),
                btf_key_type_id=_INT,
                btf_value_type_id=struct,
            )
        ours = make_map(spec, memory, cpus=_CPUS, fields=copied_around(btf, struct))
        assert isinstance(ours, LiveMap)
        self.ours = ours
        self.bytes = bpfsys.map_value_bytes(size, per_cpu=self.per_cpu)
        self.stride = self.bytes // _CPUS if self.per_cpu else self.bytes

    def update(self, byte: int) -> None:
        value = bytes((byte,)) * self.bytes
        bpfsys.map_update_elem(self.kernels, bytes(4), value)
        self.ours.host_update(bytes(4), value)

    def values(self, *, delete: bool = False) -> tuple[list[bytes], list[bytes]]:
        """The kernel's and ours, of each CPU."""
        if delete:
            kernels = bpfsys.map_lookup_and_delete_elem(self.kernels, bytes(4), self.bytes)
            ours = self.ours.host_lookup_and_delete(bytes(4))
        else:
            kernels = bpfsys.map_lookup_elem(self.kernels, bytes(4), self.bytes)
            ours = self.ours.host_lookup(bytes(4))
        return self._split(kernels), self._split(ours)

    def _split(self, values: bytes) -> list[bytes]:
        return [values[at : at + self.stride] for at in range(0, self.bytes, self.stride)]


@pytest.fixture
def memory() -> Iterator[AddressSpace]:
    with AddressSpace(limit_bytes=16 << 20) as space:
        yield space


@pytest.mark.kernel_bpf
@pytest.mark.skipif(bpfsys.available() is not None, reason=f"bpf(2): {bpfsys.available()}")
@pytest.mark.parametrize("name", _TYPES)
@pytest.mark.parametrize("kind", _BYTES, ids=lambda kind: kind.value)
def test_a_host_writes_and_reads_around_them(
    kind: FieldKind, name: str, memory: AddressSpace
) -> None:
    type_, flags = _TYPES[name]
    btf, struct, size = value_type(kind)
    spec = MapSpec("m", type_, 4, size, 2, flags, btf_value_type_id=struct)
    try:
        check_map_fields(fields_of(btf, spec), spec, "xdp")
    except Refused:
        with pytest.raises(OSError, match="ENOTSUP"):
            Twins(kind, type_, flags, memory)
        return
    twins = Twins(kind, type_, flags, memory)
    deletes = [False] if "array" in name else [False, True]
    for byte in (0xEE, 0xDD, 0xCC):
        twins.update(byte)
        for delete in deletes:
            kernels, ours = twins.values(delete=delete)
            if kind is FieldKind.LIST_HEAD:  # an empty list: its own address, in the kernel
                links = {one[_AT : _AT + 8] for one in kernels}
                assert bytes(8) not in links
                kernels = [one[:_AT] + bytes(16) + one[_AT + 16 :] for one in kernels]
            assert ours == kernels


def made(kind: FieldKind, type_: MapType, memory: AddressSpace) -> LiveMap:
    btf, struct, size = value_type(kind)
    spec = MapSpec("m", type_, 4, size, 2, btf_value_type_id=struct)
    live = make_map(spec, memory, cpus=2, fields=copied_around(btf, struct))
    assert isinstance(live, LiveMap)
    return live


_RELEASED = [
    FieldKind.TIMER,
    FieldKind.WORKQUEUE,
    FieldKind.TASK_WORK,
    FieldKind.LIST_HEAD,
    FieldKind.RB_ROOT,
    FieldKind.KPTR_UNREF,
    FieldKind.KPTR_REF,
    FieldKind.KPTR_PERCPU,
]


@pytest.mark.parametrize("type_", [MapType.ARRAY, MapType.PERCPU_ARRAY, MapType.PERCPU_HASH])
@pytest.mark.parametrize("kind", _BYTES, ids=lambda kind: kind.value)
def test_what_stands_there_is_kept_or_given_up(
    kind: FieldKind, type_: MapType, memory: AddressSpace
) -> None:
    """In values that are written in place: a lock that is held stays held."""
    live, size = made(kind, type_, memory), _BYTES[kind]
    value = b"\xee" * live.spec.value_size
    live.update(bytes(4), value, 0, 1)
    addr = live.lookup(bytes(4), 1)
    memory.write(addr + _AT, b"\x01" * size)
    live.update(bytes(4), value, 0, 1)
    assert live.lookup(bytes(4), 1) == addr
    if kind in (FieldKind.LIST_NODE, FieldKind.RB_NODE):
        expected = b"\xee" * size
    else:
        expected = bytes(size) if kind in _RELEASED else b"\x01" * size
    assert memory.read(addr + _AT, size) == expected
    assert memory.read(addr, _AT) == b"\xee" * _AT
    after = align_up(size, 8) + _AT
    assert memory.read(addr + after, 8) == b"\xee" * 8


@pytest.mark.parametrize("type_", [MapType.HASH, MapType.LRU_HASH, MapType.LRU_PERCPU_HASH])
@pytest.mark.parametrize(
    "kind", [*_RELEASED, FieldKind.SPIN_LOCK, FieldKind.REFCOUNT], ids=lambda kind: kind.value
)
def test_new_elements_inherit_nothing(
    kind: FieldKind, type_: MapType, memory: AddressSpace
) -> None:
    """Slots are used again. Who still has the address of an old element finds no pointer there."""
    live, size = made(kind, type_, memory), _BYTES[kind]
    assert isinstance(live, HashMap)
    value = b"\xee" * live.spec.value_size
    live.update(bytes(4), value, 0, 0)
    old = live.lookup(bytes(4), 0)
    memory.write(old + _AT, b"\x01" * size)
    live.delete(bytes(4))
    if kind in _RELEASED:
        assert memory.read(old + _AT, size) == bytes(size)
    live.update(bytes(4), value, 0, 0)
    assert live.lookup(bytes(4), 0) == old
    assert memory.read(old + _AT, size) == bytes(size)
    memory.write(old + _AT, b"\x01" * size)
    live.update(bytes(4), value, 0, 0)
    in_place = type_ is MapType.LRU_PERCPU_HASH
    left = b"\x01" * size if in_place and kind not in _RELEASED else bytes(size)
    assert memory.read(live.lookup(bytes(4), 0) + _AT, size) == left


def test_the_data_that_a_section_begins_with_is_copied_around_them(memory: AddressSpace) -> None:
    types: list[BtfType] = [
        Int("int", 4, 32, signed=True),
        Struct("task_struct", 0, ()),
        TypeTag("kptr_untrusted", 2),
        Ptr(3),
        Var("kept", 4, 1),
        Var("count", 1, 1),
        Datasec(".data.mine", 16, (SectionVar(5, 0, 8), SectionVar(6, 8, 4))),
    ]
    data = b"\xee" * 16
    spec = MapSpec(".data.mine", MapType.ARRAY, 4, 16, 1, data=data, btf_value_type_id=7)
    obj = BpfObject("x", "", (), (spec,), btf=Btf.of(types))
    with Image(obj, memory) as image:
        live = image.maps[".data.mine"]
        assert memory.read(live.lookup(bytes(4), 0), 16) == bytes(8) + b"\xee" * 8


def test_what_is_plain_memory_to_the_kernel_is_copied(memory: AddressSpace) -> None:
    """Values with two locks have no fields, nor have those whose list says not of what."""
    types: list[BtfType] = [
        Int("int", 4, 32, signed=True),
        Struct("bpf_spin_lock", 4, (Member("val", 1, 0),)),
        Struct("two", 8, (Member("a", 2, 0), Member("b", 2, 32))),
        Int("u64", 8, 64),
        Struct("bpf_list_head", 16, (Member("a", 4, 0), Member("b", 4, 64))),
        Struct("untagged", 16, (Member("head", 5, 0),)),
    ]
    for type_id, size in ((3, 8), (6, 16)):
        fields = copied_around(Btf.of(types), type_id)
        assert fields == ()
        live = make_map(MapSpec("m", MapType.ARRAY, 4, size, 1), memory, fields=fields)
        live.update(bytes(4), b"\xee" * size, 0, 0)
        assert live.host_lookup(bytes(4)) == b"\xee" * size


def test_locks_are_no_flag_of_updates(memory: AddressSpace) -> None:
    live = made(FieldKind.SPIN_LOCK, MapType.ARRAY, memory)
    with pytest.raises(MapError) as caught:
        live.update(bytes(4), bytes(live.spec.value_size), 4, 0)
    assert caught.value.errno == errno.EINVAL
