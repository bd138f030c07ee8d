"""What hosts register for requests of iouring-x to name."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybpfvm.errors import InputError, RingError
from pybpfvm.maps import make_map
from pybpfvm.profiles import profile_named
from pybpfvm.program import BPF_F_RDONLY_PROG, BPF_F_WRONLY_PROG, MapSpec, MapType
from pybpfvm.session import Block, Machine, Ring
from pybpfvm.session.objects import LoadedObject, MapView
from pybpfvm.uring_backend.contexts import BPF_CONTEXT
from tests.support.verifier_btf import BTF, LOCKED, LONG

OBJECT = Path(__file__).parents[2] / "examples/x_context/prog.x.bpf.o"


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine() as made:
        yield made


@pytest.fixture
def obj(machine: Machine) -> LoadedObject:
    return machine.load(OBJECT)


def view(obj: LoadedObject, type: MapType, flags: int = 0, value_type: int = LONG) -> MapView:
    size = 64 if value_type == LOCKED else 8
    spec = MapSpec("made", type, 4, size, 4, flags, btf_value_type_id=value_type)
    return MapView(make_map(spec, obj.image.memory, cpus=1), BTF, obj)


def refusal(ring: Ring, context: MapView | Block) -> int:
    with pytest.raises(RingError) as refused:
        ring.register_contexts([context])
    return refused.value.errno


def test_programs_get_elements_of_maps_and_parts_of_blocks(
    machine: Machine, obj: LoadedObject
) -> None:
    with Ring(abi=obj.profile, machine=machine) as ring:
        block = ring.user.alloc(bytes(range(64)), "group", shared=True)
        ring.register_contexts([obj.maps["groups"], block])
        ring.register_bpf([obj["score"]])
        ring.get_sqe().prep_bpf(0, user_data=5, op_flags=BPF_CONTEXT, addr=2)
        ring.get_sqe().prep_bpf(0, user_data=1, op_flags=BPF_CONTEXT, buf_index=1, addr=8, len=16)
        ring.get_sqe().prep_bpf(0, user_data=1, op_flags=BPF_CONTEXT, buf_index=1, len=15)
        ring.submit()
        assert [cqe.res for cqe in ring.reap()] == [0, 0, 0]
        assert obj.maps["groups"][2] == {"bytes": 5, "conns": 1}
        changed = bytearray(range(64))
        changed[8], changed[16] = 9, 17
        assert block.read() == bytes(changed)
        with pytest.raises(InputError, match="group is pinned"):
            block.free()
        ring.unregister_contexts()
        block.free()


def test_memory_that_is_not_all_for_programs_is_no_context(
    machine: Machine, obj: LoadedObject
) -> None:
    with Ring(abi=obj.profile, machine=machine) as ring:
        assert refusal(ring, view(obj, MapType.HASH)) == errno.EINVAL
        assert refusal(ring, view(obj, MapType.PERCPU_ARRAY)) == errno.EINVAL
        assert refusal(ring, view(obj, MapType.ARRAY, BPF_F_RDONLY_PROG)) == errno.EINVAL
        assert refusal(ring, view(obj, MapType.ARRAY, BPF_F_WRONLY_PROG)) == errno.EINVAL
        assert refusal(ring, view(obj, MapType.ARRAY, value_type=LOCKED)) == errno.EINVAL
        assert refusal(ring, ring.user.alloc(8)) == errno.EFAULT
        ring.register_contexts([view(obj, MapType.ARRAY)])


def test_other_rings_have_none(machine: Machine, obj: LoadedObject) -> None:
    with Ring(abi="iouring-v3", machine=machine) as ring:
        assert refusal(ring, obj.maps["groups"]) == errno.EINVAL


def test_programs_call_no_others_that_were_verified_for_larger_blocks() -> None:
    profile = profile_named("iouring-x")
    assert "tail_call" not in profile.helpers.values()
    assert "tail_call" in profile_named("iouring-v3").helpers.values()
