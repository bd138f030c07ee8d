"""Registers: a pointer that moves takes along everything else that is known of it."""

from __future__ import annotations

from pybpfvm.program import MapSpec, MapType
from pybpfvm.verifier.domains.scalar import Scalar
from pybpfvm.verifier.states.regstate import Pointer, Reg, RegType, Trust

KNOWN = {
    "id": 3,
    "map": MapSpec("array", MapType.ARRAY, 4, 8, 1),
    "map_index": 2,
    "range": 5,
    "mem_size": 6,
    "ref_id": 7,
    "owner": 8,
    "buffer": -16,
    "frame": 1,
    "subprog": 9,
    "btf_id": 10,
    "trust": Trust.RCU,
}
SLOTS = (*Reg.__slots__, *Pointer.__slots__)


def test_a_pointer_that_moves_keeps_the_rest() -> None:
    var = Scalar.range(0, 3)
    pointer = Pointer(RegType.PTR_TO_MEM, 11, off=12, **KNOWN)  # type: ignore[arg-type]
    moved = pointer.moved(20, 24, var)
    made = Pointer(RegType.PTR_TO_MEM, 20, off=24, var=var, **KNOWN)  # type: ignore[arg-type]
    assert {name: getattr(moved, name) for name in SLOTS} == {
        name: getattr(made, name) for name in SLOTS
    }
    assert (pointer.moved(20, 24, var, id=0, range=0).id, pointer.id) == (0, 3)
    assert pointer.moved(20, 24, var, range=0).range == 0
    assert set(KNOWN) | {"off"} == {*Pointer.__slots__, "id"}
