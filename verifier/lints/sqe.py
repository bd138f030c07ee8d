"""An SQE as far as it is known when it is submitted, read from the bytes on the stack."""

from __future__ import annotations

from dataclasses import dataclass

from pybpfvm.uring_backend.abi import SQE_ANY_LINK, SQE_CQE_SKIP_SUCCESS
from pybpfvm.verifier.lints.site import Site, stack_place
from pybpfvm.verifier.lints.stores import Stores
from pybpfvm.verifier.states.regstate import Reg

# Offset and size of each field; names as in `uring_backend.abi.Sqe`.
FIELDS = {
    "opcode": (0, 1),
    "flags": (1, 1),
    "ioprio": (2, 2),
    "fd": (4, 4),
    "off": (8, 8),
    "addr": (16, 8),
    "len": (24, 4),
    "op_flags": (28, 4),
    "user_data": (32, 8),
    "buf_index": (40, 2),
    "personality": (42, 2),
    "file_index": (44, 4),
    "cq_idx": (48, 2),
    "addr3": (48, 8),
}


@dataclass(frozen=True, slots=True)
class Sqe:
    """The 64 bytes at r10 + `low` of frame number `frame`, submitted by the call at `pc`."""

    frame: int
    low: int
    pc: int
    stores: Stores

    def value(self, field: str) -> int | None:
        """What the field holds, None if that is not known."""
        offset, size = FIELDS[field]
        return self.stores.value(self.frame, self.low + offset, size)

    def number(self, field: str) -> Reg | None:
        """The number that was stored into the field, with its history."""
        offset, size = FIELDS[field]
        return self.stores.number(self.frame, self.low + offset, size)

    @property
    def opcode(self) -> int | None:
        """Its opcode, None if that is not known."""
        return self.value("opcode")

    @property
    def cq_idx(self) -> int | None:
        """Index of the CQ that it completes to, None if that is not known."""
        return self.value("cq_idx")

    @property
    def linked(self) -> bool:
        """Whether the next SQE certainly belongs to this one's chain."""
        return bool((self.value("flags") or 0) & SQE_ANY_LINK)

    @property
    def silent(self) -> bool:
        """Whether success posts no CQE."""
        return bool((self.value("flags") or 0) & SQE_CQE_SKIP_SUCCESS)


def sqe_at(site: Site) -> Sqe | None:
    """The SQE that a call submits; None if it does not lie at a known place on the stack."""
    place = stack_place(site.state, site.regs[2])
    return None if place is None else Sqe(place[0].number, place[1], site.pc, site.notes.stores)
