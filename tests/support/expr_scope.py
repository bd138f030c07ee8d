"""A scope for tests of expressions: everything it has is given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pybpfvm.expr import Moment, RingView, Unreadable
from pybpfvm.program import MapSpec, Program
from pybpfvm.source.info import DebugInfo


@dataclass
class FakeRing:
    """A ring of queues that are lists of CQEs."""

    queues: list[list[bytes]] = field(default_factory=lambda: [[]])
    words: dict[str, int] = field(default_factory=dict)
    ran: dict[str, int] = field(default_factory=dict)

    def cqs(self) -> int:
        return len(self.queues)

    def cq(self, index: int, field: str) -> int:
        ready = len(self.queues[index])
        return {"ready": ready, "head": 5, "tail": 5 + ready, "entries": 8, "free": 8 - ready}[
            field
        ]

    def cqe(self, index: int, ahead: int) -> bytes | None:
        held = self.queues[index]
        return held[ahead] if ahead < len(held) else None

    def sq(self, field: str) -> int:
        return {"ready": 1, "head": 2, "tail": 3, "entries": 4, "dropped": 0}[field]

    def word(self, field: str) -> int:
        if field not in self.words:
            raise Unreadable(f"the ring tells nothing of {field}")
        return self.words[field]

    def runs(self, program: str) -> int | None:
        return self.ran.get(program)


@dataclass
class FakeScope:
    """Memory is `memory`: address -> bytes that begin there."""

    regs: Sequence[int] | None = None
    pc: int = 0
    program: Program | None = None
    debug: DebugInfo | None = None
    moment: Moment | None = None
    memory: dict[int, bytes] = field(default_factory=dict)
    blocks: dict[str, tuple[int, int]] = field(default_factory=dict)
    rings: Mapping[str, RingView] = field(default_factory=dict)
    constants: Mapping[str, int] = field(default_factory=dict)
    specs: dict[str, MapSpec] = field(default_factory=dict)
    elements: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    sections: dict[str, int] = field(default_factory=dict)
    byteorder: Literal["little", "big"] = "little"

    def read(self, addr: int, size: int) -> bytes:
        for start, data in self.memory.items():
            if start <= addr and addr + size <= start + len(data):
                return data[addr - start : addr - start + size]
        raise Unreadable(f"no memory at {addr:#x}")

    def block(self, name: str) -> tuple[int, int] | None:
        return self.blocks.get(name)

    def block_names(self) -> Iterable[str]:
        return self.blocks

    def describe(self, addr: int) -> str:
        for name, (start, size) in self.blocks.items():
            if start <= addr < start + size:
                return f"{name}+{addr - start}" if addr > start else name
        return ""

    def maps(self) -> Mapping[str, MapSpec]:
        return self.specs

    def element(self, name: str, key: bytes) -> bytes | None:
        return self.elements[name].get(key)

    def element_addr(self, name: str, key: bytes) -> int | None:
        return None

    def keys(self, name: str) -> Iterable[bytes]:
        return list(self.elements[name])

    def data_address(self, section: str, offset: int) -> int | None:
        start = self.sections.get(section)
        return None if start is None else start + offset
