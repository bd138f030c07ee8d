"""Assembly in, result out: one program in a fresh image, for tests of engines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from pybpfvm.engine import DEFAULT_BUDGET_INSNS, Hook, RunEnvironment, RunResult
from pybpfvm.errors import SourceLine
from pybpfvm.helpers.proto import Helper
from pybpfvm.helpers.table import HELPERS
from pybpfvm.image import Image
from pybpfvm.isa.asm import assemble
from pybpfvm.memory import Region, RegionKind
from pybpfvm.profiles.ordinary import MAINLINE_HELPERS
from pybpfvm.program import BpfObject, MapSpec, Program, Subprog
from pybpfvm.vm.interp import Interpreter

BASE_HELPERS: Mapping[int, Helper] = {
    number: HELPERS[name] for number, name in MAINLINE_HELPERS.items()
}


@dataclass
class Machine:
    """An image with one program (and others to tail-call), its engine, a context, a packet."""

    text: str
    others: Mapping[str, str] = field(default_factory=dict)
    maps: Sequence[MapSpec] = ()
    subprogs: Sequence[Subprog] = ()
    lines: Mapping[int, SourceLine] = field(default_factory=dict)
    helpers: Mapping[int, Helper] = field(default_factory=lambda: BASE_HELPERS)
    environment: RunEnvironment = field(default_factory=RunEnvironment)
    ctx: bytes = bytes(16)
    packet: bytes | None = None
    big_endian: bool = False
    cpus: int = 1

    def __post_init__(self) -> None:
        names = {spec.name: index for index, spec in enumerate(self.maps)}
        numbers = {name: number for number, name in MAINLINE_HELPERS.items()}
        self.program = Program(
            "main",
            "socket",
            assemble(self.text, maps=names, calls=numbers),
            subprogs=tuple(self.subprogs),
            lines=self.lines,
            big_endian=self.big_endian,
        )
        others = tuple(
            Program(name, "socket", assemble(text, maps=names, calls=numbers))
            for name, text in self.others.items()
        )
        obj = BpfObject(
            "test.o", "", (self.program, *others), tuple(self.maps), big_endian=self.big_endian
        )
        self.image = Image(obj, cpus=self.cpus)
        memory = self.image.memory
        self.ctx_region = memory.alloc(max(1, len(self.ctx)), RegionKind.CTX, "ctx")
        memory.write(self.ctx_region.start, self.ctx)
        self.packet_region: Region | None = None
        if self.packet is not None:
            self.packet_region = memory.alloc(len(self.packet), RegionKind.PACKET, "packet")
            memory.write(self.packet_region.start, self.packet)
        self.engine = Interpreter(self.image, self.helpers, self.environment)

    def run(self, budget_insns: int = DEFAULT_BUDGET_INSNS, hook: Hook | None = None) -> RunResult:
        """Run the program once."""
        self.engine.hook = hook
        return self.engine.run(
            self.program,
            self.ctx_region.start,
            budget_insns=budget_insns,
            packet=self.packet_region,
        )

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        self.image.close()


def r0(text: str, **options: object) -> int:
    """What a program returns."""
    make: Callable[..., Machine] = Machine
    with make(text, **options) as machine:
        return machine.run().r0
